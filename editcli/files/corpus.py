"""The corpus that scope signals learn from: files of JSON Lines that ship with editcli."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from editcli.errors import UsageError
from editcli.files.jsonl import Refused, findings, read_bytes, records
from editcli.files.packaged import datasets_dir
from editors.scope.corpus import Corpus, Frame, LongerName, Relation
from editors.scope.phrasings import Phrasings

T = TypeVar("T")

_GROUP = 'a line looks like this: `{"subject": "France", "prompts": ["The capital is", "..."]}`'
_INSTALL = "`pip install --force-reinstall editcli`"


def read_corpus(groups: Path | None = None) -> Corpus:
    """The corpus that ships with editcli. ``groups``: a file of groups of phrasings instead of its
    own.

    Raises UsageError for a file that cannot be read, naming the first bad line.
    """
    folder = datasets_dir()
    phrasings = folder / "phrasings"
    relations = sorted((phrasings / "relations").glob("*.jsonl"))
    return Corpus(
        _rows(groups or folder / "calibration.jsonl", Phrasings.from_dict, _GROUP),
        [row for file in relations for row in _rows(file, _as(Relation))],
        _rows(phrasings / "frames.jsonl", _as(Frame)),
        _rows(phrasings / "longer-names.jsonl", _as(LongerName)),
    )


def _as(kind: type[T]) -> Callable[[Mapping[str, Any]], T]:
    return lambda row: kind(**row)


def _rows(file: Path, make: Callable[[dict[str, Any]], T], hint: str = _INSTALL) -> list[T]:
    refused: list[Refused] = []
    rows = [row for _, row in records(BytesIO(read_bytes(str(file))), make, refused)]
    if refused:
        raise UsageError(findings(str(file), refused)[0], hint)
    return rows
