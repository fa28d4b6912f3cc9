"""The flat rows of EasyEdit: CounterFact, SelfCheckGPT, Temporal, and sets made like them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import Fields, case, fact, kept, optional, text, texts
from editors.facts import ProbeKind

# What Temporal adds to the name of a subject: the words that its prompt goes on with.
_BEYOND_THE_NAME = re.compile(r"(?:,|\s+(?:is|are|was|were|a|an|the))+$")


def _facts(row: Row, kind: ProbeKind = "far", source: str = "") -> Iterable[Fields]:
    subject = optional(row, "subject")
    yield fact(
        text(row, "prompt"),
        text(row, "target_new"),
        subject=subject and _BEYOND_THE_NAME.sub("", subject),
        ground_truth=optional(row, "ground_truth"),
        rephrases=texts(row, "rephrase_prompt", "ood_rephrase"),
        locality=kept(texts(row, "locality_prompt"), optional(row, "locality_ground_truth"), kind),
        source=case(source, row, "case_id") if source else None,
    )


EASYEDIT = Format("easyedit", "flat rows, as EasyEdit has them", ("prompt", "target_new"), _facts)

COUNTERFACT_FLAT = Format(
    "counterfact-flat",
    "CounterFact, as EasyEdit has it",
    ("prompt", "target_new", "subject", "ground_truth", "rephrase_prompt", "locality_prompt"),
    partial(_facts, kind="relation", source="CounterFact"),
)
SELF_CHECK_GPT = Format(
    "selfcheckgpt",
    "hallucinations of SelfCheckGPT, as WISE edits them",
    ("prompt", "target_new", "subject", "locality_prompt"),
    _facts,
)
TEMPORAL = Format(
    "temporal",
    "Temporal, as WISE edits it",
    ("prompt", "target_new", "subject", "ood_rephrase", "locality_prompt"),
    _facts,
)
