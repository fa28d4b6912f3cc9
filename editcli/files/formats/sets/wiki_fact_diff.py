"""WikiFactDiff (arXiv 2403.14364): changes of Wikidata."""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import Fields, case, fact, follows, kept, optional, text, texts


def _facts(row: Row) -> Iterator[Fields]:
    yield fact(
        text(row, "en.src"),
        text(row, "en.alt"),
        subject=optional(row, "en.subject"),
        ground_truth=optional(row, "en.old"),
        rephrases=texts(row, "en.rephrase"),
        locality=kept(texts(row, "en.loc"), optional(row, "en.loc_ans"), "relation"),
        portability=follows(
            optional(row, "en.portability.New Question"), optional(row, "en.portability.New Answer")
        ),
        source=case("WikiFactDiff", row, "en.case_id"),
    )


WIKI_FACT_DIFF = Format(
    "wikifactdiff", "WikiFactDiff, in English", ("en.src", "en.alt", "en.subject"), _facts
)
