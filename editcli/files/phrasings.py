"""Files of phrasings that a scope signal is calibrated on, JSON Lines: a subject and its
prompts."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from editcli.errors import UsageError
from editcli.files.jsonl import json_lines
from editcli.files.packaged import datasets_dir
from editors import EditorError
from editors.scope.phrasings import Phrasings

_LINE = '`{"subject": "France", "prompts": ["The capital of France is", "..."]}` is such a line'


def read_phrasings(path: Path | None) -> list[Phrasings]:
    """The groups of phrasings in `path`; without a path, those that ship with editcli.

    Raises UsageError for a file that cannot be read, naming the first bad line.
    """
    source = datasets_dir() / "calibration.jsonl" if path is None else path
    try:
        data = source.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read {source}: {why.lower()}", "`--calibration FILE`") from error
    groups: list[Phrasings] = []
    for number, row in json_lines(BytesIO(data)):
        if isinstance(row, str):
            raise UsageError(f"{source}:{number}: {row}", _LINE)
        try:
            groups.append(Phrasings.from_dict(row))
        except EditorError as error:
            raise UsageError(f"{source}:{number}: {error.message}", _LINE) from error
    return groups
