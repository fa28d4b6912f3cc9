"""Writing the facts of files of other forms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from editcli.cli.console import Progress
from editcli.errors import FactsRefused, UsageError
from editcli.files.conversion import FactRows
from editcli.files.jsonl import Refused, findings
from editcli.files.tally import Tally
from editcli.operations.same_question import NearPrompts
from editcli.store.files import atomic


@contextmanager
def writing_to(path: Path, shown: Path) -> Iterator[BinaryIO]:
    """The file at ``path``, which appears when it is whole; ``shown``: as the user named it."""
    with atomic.explained(f"writing {shown}"), atomic.writing(path) as file:
        yield file


def write_facts(
    rows: FactRows,
    file: BinaryIO,
    limit: int | None,
    bar: Progress,
    near: NearPrompts | None,
    *,
    streams: bool,
) -> tuple[int, int, Tally]:
    """Write the facts of the rows to ``file``; gives the number of rows written, that of facts, and
    the rows left out. ``near``: sets prompts apart."""
    written = fact_count = 0
    left_out = Tally()
    for item in islice(rows.facts(), limit):
        bar.advance()
        if isinstance(item, Refused):
            left_out.add(item)
            continue
        written += 1
        for fact in item[1]:
            fact_count += 1
            kept = near.without(item[0], fact) if near else fact
            file.write(json.dumps(kept.to_dict(), ensure_ascii=False).encode() + b"\n")
        if streams:
            file.flush()  # whoever reads it need not wait for the last row
    return written, fact_count, left_out


def no_facts(name: str, left_out: Tally, unit: str) -> UsageError | FactsRefused:
    """The error where no row can be a fact."""
    if not left_out.count:
        return UsageError(f"{name} holds no rows", "`editcli facts formats` lists what is read")
    first = [bad for entry in left_out.reasons() for bad in entry.first]
    lines = [f"no row of {name} can be a fact", *findings(name, first, unit)]
    return FactsRefused("\n".join(lines), "`--from FORMAT` names the format, `--column` a key")
