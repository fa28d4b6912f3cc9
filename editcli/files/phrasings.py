"""Files of phrasings that a scope signal is calibrated on, JSON Lines: a subject and its
prompts."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from editcli.errors import UsageError
from editcli.files.jsonl import Refused, findings, read_bytes, records
from editcli.files.packaged import datasets_dir
from editors.scope.phrasings import Phrasings

_LINE = 'a line looks like this: `{"subject": "France", "prompts": ["The capital is", "..."]}`'


def read_phrasings(path: Path | None) -> list[Phrasings]:
    """The groups of phrasings in `path`; without a path, those that ship with editcli.

    Raises UsageError for a file that cannot be read, naming the first bad line.
    """
    source = str(path or datasets_dir() / "calibration.jsonl")
    refused: list[Refused] = []
    lines = BytesIO(read_bytes(source))
    groups = [group for _, group in records(lines, Phrasings.from_dict, refused)]
    if refused:
        raise UsageError(findings(source, refused)[0], _LINE)
    return groups
