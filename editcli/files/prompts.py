"""Streams of prompts: on each line a text, or the turns of a chat as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from editors import EditorError
from editors.schema import Text, kind_of, problems, record

if TYPE_CHECKING:
    from editors.model.tokenization import Prompt, Turn

_HINT = 'a chat looks like this: `[{"role": "user", "content": "Who wrote Hamlet?"}]`'


@record(EditorError, _HINT)
class _Turn:
    role: Text
    content: Text


def read_prompt(line: bytes) -> Prompt | None:
    """The prompt on a line of UTF-8; None where the line is blank.

    A JSON list with an object in it is a chat, and any other line is a text. White space at the end
    of a text is left out.

    Raises:
        EditorError: the line is not UTF-8, or is a chat with a bad turn, or one whose last turn is
            not the user's.
    """
    text = read_text(line)
    listed = _json_list(text)
    if any(isinstance(value, dict) for value in listed):
        return _turns(listed)
    return text or None


def read_text(line: bytes) -> str:
    """The text on a line of UTF-8, without white space at its end; raises EditorError if it is not
    UTF-8."""
    try:
        return line.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise EditorError(f"not UTF-8: {error.reason}", "a line is UTF-8 text") from error


def _json_list(text: str) -> list[object]:
    """The JSON list that ``text`` is; empty if it is something else."""
    if not text.lstrip().startswith("["):
        return []
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else []


def _turns(listed: list[object]) -> list[Turn]:
    turns: list[Turn] = []
    for number, value in enumerate(listed, start=1):
        if not isinstance(value, dict):
            raise EditorError(f"turn {number} is {kind_of(value)}, not an object", _HINT)
        if found := problems(_Turn, value):
            raise EditorError(f"turn {number}: {'; '.join(found)}", _HINT)
        turns.append(asdict(_Turn(**value)))
    if turns[-1]["role"] != "user":
        role = turns[-1]["role"]
        raise EditorError(f"the last turn has the role {role!r}, and not 'user'", _HINT)
    return turns
