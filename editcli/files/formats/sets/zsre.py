"""zsRE in its three forms: of EasyEdit and WISE, of MEND (KILT), and of UltraEdit and RLEdit."""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import (
    Fields,
    case,
    fact,
    follows,
    kept,
    named,
    objects,
    optional,
    text,
    texts,
)

_NQ = "nq question: "  # before the far prompts, which are from Natural Questions


def _facts(row: Row) -> Iterator[Fields]:
    yield _question(row, optional(row, "alt"), optional(row, "answers"))


def _facts_ans(row: Row) -> Iterator[Fields]:
    yield _question(row, text(row, "ans"), None)


def _question(row: Row, target: str | None, truth: str | None) -> Fields:
    return fact(
        text(row, "src"),
        target,
        subject=optional(row, "subject"),
        ground_truth=truth,
        rephrases=texts(row, "rephrase"),
        locality=kept(
            [prompt.removeprefix(_NQ) for prompt in texts(row, "loc")],
            optional(row, "loc_ans"),
            "far",
        ),
        portability=follows(
            optional(row, "portability.New Question"), optional(row, "portability.New Answer")
        ),
        source=case("zsRE", row, "case_id"),
    )


def _facts_mend(row: Row) -> Iterator[Fields]:
    """The subject is the title of the page that the answer is from, where the question names it."""
    prompt = text(row, "input")
    answers = [entry for entry in objects(row, "output") if texts(entry, "answer")]
    title = optional(answers[0], "provenance[].title") if answers else None
    yield fact(
        prompt,
        optional(row, "alternatives"),
        subject=named(title, prompt),
        ground_truth=optional(answers[0], "answer") if answers else None,
        rephrases=texts(row, "filtered_rephrases"),
        source=case("zsRE", row, "id"),
    )


ZSRE = Format(
    "zsre", "zsRE, as EasyEdit and WISE have it", ("src", "alt", "rephrase", "loc"), _facts
)
ZSRE_MEND = Format(
    "zsre-mend", "zsRE, as MEND and KILT have it", ("input", "alternatives", "output"), _facts_mend
)
ZSRE_ANS = Format(
    "zsre-ans",
    "zsRE, as UltraEdit and RLEdit have it",
    ("src", "ans", "rephrase", "loc"),
    _facts_ans,
)
