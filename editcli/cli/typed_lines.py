"""Lines that somebody types on a terminal, with arrow keys and history, by prompt_toolkit."""

from __future__ import annotations

from collections.abc import Iterator


def typed_lines(prompt: str) -> Iterator[str]:
    """Each line that is typed after ``prompt``, until Ctrl-D. Ctrl-C throws a line away. The
    history is forgotten at the end."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory

    session: PromptSession[str] = PromptSession(history=InMemoryHistory())
    while True:
        try:
            yield session.prompt(prompt)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
