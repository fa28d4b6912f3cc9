"""Sets of passages against memory whose rows hold a fact: a prompt, its answer, and another one.

The passages are left out: ParaConflict (arXiv 2503.10996), Competition of Mechanisms
(arXiv 2402.11655) and DynamicQA (arXiv 2407.17023).
"""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import Fields, case, fact, named, optional, text, texts


def _para_conflict(row: Row) -> Iterator[Fields]:
    yield fact(
        text(row, "Clean Prompt"),
        text(row, "Distracted Token"),
        subject=optional(row, "Subject"),
        ground_truth=optional(row, "Answer"),
        tags=texts(row, "Category"),
    )


def _comp_mech(row: Row) -> Iterator[Fields]:
    yield fact(
        text(row, "base_prompt"),
        text(row, "target_new"),
        ground_truth=optional(row, "target_true"),
    )


def _dynamic_qa(row: Row) -> Iterator[Fields]:
    """The subject is the page that a question is from, and not all questions name it."""
    prompt = text(row, "question")
    yield fact(
        prompt,
        text(row, "replace_name"),
        subject=named(optional(row, "subj"), prompt),
        ground_truth=optional(row, "obj"),
        source=case("DynamicQA", row, "id"),
        tags=texts(row, "prop"),
    )


PARA_CONFLICT = Format(
    "paraconflict",
    "ParaConflict, without its passages",
    ("Clean Prompt", "Subject", "Answer", "Distracted Token"),
    _para_conflict,
)
COMP_MECH = Format(
    "comp-mech",
    "Competition of Mechanisms, without its passages",
    ("base_prompt", "template", "target_new", "target_true"),
    _comp_mech,
)
DYNAMIC_QA = Format(
    "dynamicqa",
    "DynamicQA, without its passages",
    ("question", "subj", "obj", "replace_name"),
    _dynamic_qa,
)
