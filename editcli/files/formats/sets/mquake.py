"""MQuAKE (arXiv 2305.14795), its Remastered form, and its unstructured form in AKEW."""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import (
    Fields,
    case,
    fact,
    filled,
    follows,
    objects,
    optional,
    text,
    texts,
)

_EDITS = "requested_rewrite"


def _facts(row: Row) -> Iterator[Fields]:
    """A fact for each edit of the row. The last one has the questions that need them all, so that a
    cut between the facts of a row leaves no question without an edit that it needs."""
    edits = objects(row, _EDITS)
    answer = optional(row, "new_answer")
    hops = [hop for question in texts(row, "questions") for hop in follows(question, answer)]
    for number, edit in enumerate(edits, start=1):
        subject = text(edit, "subject")
        yield fact(
            filled(text(edit, "prompt"), subject),
            text(edit, "target_new.str"),
            subject=subject,
            ground_truth=optional(edit, "target_true.str"),
            rephrases=texts(edit, "question"),
            portability=hops if number == len(edits) else (),
            source=case("MQuAKE", row, "case_id"),
            tags=texts(edit, "relation_id"),
        )


MQUAKE = Format(
    "mquake",
    "MQuAKE, also Remastered and of AKEW",
    (
        *(f"{_EDITS}[].prompt", f"{_EDITS}[].subject", f"{_EDITS}[].target_new.str"),
        *("questions", "new_answer"),
    ),
    _facts,
)
