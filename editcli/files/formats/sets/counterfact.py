"""CounterFact as ROME and MEMIT publish it (arXiv 2202.05262), and as AKEW extends it."""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import Fields, case, fact, filled, kept, optional, text, texts

_EDIT = "requested_rewrite"


def _facts(row: Row) -> Iterator[Fields]:
    """Neighbours share the old answer, and the subjects of `attribute_prompts` have the new one:
    the same question about other subjects. `generation_prompts` have no answer."""
    subject = text(row, f"{_EDIT}.subject")
    new, old = text(row, f"{_EDIT}.target_new.str"), optional(row, f"{_EDIT}.target_true.str")
    yield fact(
        filled(text(row, f"{_EDIT}.prompt"), subject),
        new,
        subject=subject,
        ground_truth=old,
        rephrases=texts(row, "paraphrase_prompts"),
        locality=[
            *kept(texts(row, "neighborhood_prompts"), old, "relation"),
            *kept(texts(row, "attribute_prompts"), new, "relation"),
        ],
        source=case("CounterFact", row, "case_id"),
        tags=texts(row, f"{_EDIT}.relation_id"),
    )


COUNTERFACT = Format(
    "counterfact",
    "CounterFact, as ROME has it",
    (f"{_EDIT}.prompt", f"{_EDIT}.subject", f"{_EDIT}.target_new.str"),
    _facts,
)
