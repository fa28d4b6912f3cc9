"""Lines that somebody types on a terminal, with arrow keys and history, by prompt_toolkit."""

from __future__ import annotations

import sys
from collections.abc import Iterator


def typed_lines(prompt: str) -> Iterator[str]:
    """Each line that is typed after ``prompt``, until Ctrl-D. Ctrl-C throws a line away. The
    history is forgotten at the end."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.output import create_output

    # What goes to a file or a pipe is data, and the prompt is none.
    output = None if sys.stdout.isatty() else create_output(sys.stderr)
    session: PromptSession[str] = PromptSession(history=InMemoryHistory(), output=output)
    while True:
        try:
            yield session.prompt(prompt)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
