"""Conflict files: questions with passages, JSON Lines, with every bad line reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import Literal

from editcli.errors import UsageError
from editcli.files.jsonl import Refused, read_bytes, records, refusal
from editors.conflicts.cases import CONFLICTING, Conflict, Split

LOCATE, DEV = 4, 8
"""Bounds on the first hexadecimal digit of a row's digest: a row below LOCATE is in the split
"locate", one below DEV in "dev", every other in "test"."""


@dataclass(frozen=True, slots=True)
class ConflictFile:
    """The rows of a file in order, and the digest of its bytes."""

    name: str
    rows: tuple[Conflict, ...]
    digest: str

    def split(self, name: Split) -> list[Conflict]:
        """The rows of one split.

        Rows that name no split are assigned by a digest of their subject, or of their question
        where they have none: a quarter to "locate", a quarter to "dev", half to "test".
        """
        return [row for row in self.rows if (row.split or _split(row)) == name]

    def chosen(self, split: Split | Literal["all"], limit: int | None) -> list[Conflict]:
        """The first `limit` rows of a split, or of all; raises UsageError where there is none."""
        rows = (list(self.rows) if split == "all" else self.split(split))[:limit]
        if not rows:
            raise UsageError(f"no row of {self.name} is in the split {split!r}", "`--split all`")
        return rows

    def require_splits(self) -> None:
        """Raises UsageError where one of the three splits has no conflicting row."""
        for name in ("locate", "dev", "test"):
            if not any(row.kind in CONFLICTING for row in self.split(name)):
                raise UsageError(
                    f"no conflicting row of {self.name} is in the split {name!r}",
                    "heads are found on `locate`, their number on `dev`, the result on `test`: "
                    "add rows, or name the `split` of each",
                )


def read_conflicts(source: str, *, skip_bad: bool = False) -> ConflictFile:
    """Read the conflict file at path `source`, or standard input if it is "-".

    Raises:
        UsageError: there is no such file, or it holds no rows.
        FactsRefused: some lines are refused, and not `skip_bad`; every one is named.
    """
    name = "<stdin>" if source == "-" else source
    data = read_bytes(source)
    refused: list[Refused] = []
    rows = tuple(row for _, row in records(BytesIO(data), Conflict.from_dict, refused))
    if refused and not skip_bad:
        raise refusal(name, refused, "correct the lines, or leave them out: `--skip-bad`")
    if not rows:
        raise UsageError(f"{name} holds no rows", "`editcli conflict --help` shows what a row is")
    return ConflictFile(name, rows, sha256(data).hexdigest())


def _split(row: Conflict) -> Split:
    digit = int(sha256((row.subject or row.question).encode()).hexdigest()[0], 16)
    return "locate" if digit < LOCATE else "dev" if digit < DEV else "test"
