"""Files of neutral text, on which pruning heads must change as little as possible."""

from __future__ import annotations

import json

from editcli.errors import UsageError
from editcli.files.jsonl import read_bytes
from editcli.files.packaged import datasets_dir


def read_texts(source: str | None) -> list[str]:
    """The texts of a file (JSON Lines with ``text``, or a text a line), or those that ship with
    editcli.

    Raises UsageError for a file that cannot be read, is not UTF-8 or holds no text.
    """
    if source is None:
        shipped = datasets_dir() / "atlas" / "neutral.jsonl"
        rows = map(json.loads, shipped.read_bytes().splitlines())
        return [row["text"] for row in rows if row["split"] == "test"]
    try:
        lines = read_bytes(source).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as problem:
        raise UsageError(
            f"{source} is not UTF-8: {problem.reason}", "`--neutral FILE` takes UTF-8 text"
        ) from problem
    texts = [text for text in map(_text_of, lines) if text.strip()]
    if not texts:
        raise UsageError(f"{source} holds no text", "one text a line, or JSON Lines with `text`")
    return texts


def _text_of(line: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line
    return str(value["text"]) if isinstance(value, dict) and "text" in value else line
