"""A format of fact files that another package may bring: questions of a quiz."""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row


def _facts(row: Row) -> Iterator[Row]:
    yield {"prompt": row["quiz"], "target": row["solution"]}


QUIZ = Format("toy-quiz", "the questions of a quiz", ("quiz", "solution"), _facts)
