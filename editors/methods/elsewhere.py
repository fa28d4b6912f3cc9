"""How an engine that knows nothing of edits answers with them: what it is asked for each prompt.

Such an engine holds the base, and maybe adapters. Whoever asks it decides on each prompt first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from editors.inference.decisions import Decision
from editors.model.tokenization import Prompt


@dataclass(frozen=True, slots=True)
class Dispatch:
    """What another engine is to be asked for one prompt, and the ``decision`` on it.

    ``text``: of a plain prompt, what is asked in its place; of a chat, what its system turn is to
    say, which is a new first turn if there is none. None: the prompt is asked as it is.
    ``adapter``: the name of the adapter that is to answer; None: the base is.
    """

    decision: Decision
    text: str | None = None
    adapter: str | None = None


Dispatcher = Callable[[Sequence[Prompt]], list[Dispatch]]
"""From prompts to what is to be asked for each. Raises EditorError for a prompt that cannot be
encoded."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """How another engine answers with the edits of one version.

    ``adapters``: the names of all adapters that it has to hold, as an export calls them.
    """

    dispatcher: Dispatcher
    adapters: tuple[str, ...] = ()
