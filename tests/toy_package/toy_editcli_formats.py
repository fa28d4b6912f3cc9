"""A format of fact files that another package may bring: questions of a quiz."""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import Fields, fact, text


def _facts(row: Row) -> Iterator[Fields]:
    yield fact(text(row, "quiz"), text(row, "solution"))


QUIZ = Format("toy-quiz", "the questions of a quiz", ("quiz", "solution"), _facts)
