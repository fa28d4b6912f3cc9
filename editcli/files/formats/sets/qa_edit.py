"""QAEdit (arXiv 2502.11177): questions of NQ, TriviaQA and SimpleQA."""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import Fields, case, fact, kept, objects, optional, text, texts


def _facts(row: Row) -> Iterator[Fields]:
    yield fact(
        text(row, "prompt"),
        text(row, "target"),
        subject=optional(row, "subject"),
        rephrases=texts(row, "rephrase"),
        locality=[
            probe
            for far in objects(row, "locality")
            for probe in kept(texts(far, "loc"), optional(far, "loc_ans"), "far")
        ],
        source=case("QAEdit", row, "id"),
        tags=texts(row, "source"),
    )


QA_EDIT = Format("qaedit", "QAEdit", ("prompt", "target", "rephrase", "locality[].loc"), _facts)
