"""WikiBigEdit (arXiv 2503.05683): changes of Wikidata, month by month."""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import (
    Fields,
    fact,
    follows,
    kept,
    named,
    optional,
    text,
    texts,
)


def _facts(row: Row) -> Iterator[Fields]:
    """Its commas are taken out of some subjects, which the question then does not name."""
    prompt = text(row, "update")
    personas = [key for key in row if key.startswith("personas")]
    yield fact(
        prompt,
        text(row, "ans"),
        subject=named(optional(row, "subject"), prompt),
        rephrases=texts(row, "rephrase", *personas),
        locality=kept(texts(row, "loc"), optional(row, "loc_ans"), "relation"),
        portability=follows(optional(row, "mhop"), optional(row, "mhop_ans")),
        tags=texts(row, "tag"),
    )


WIKI_BIG_EDIT = Format(
    "wikibigedit", "WikiBigEdit", ("update", "ans", "subject", "rephrase", "loc"), _facts
)
