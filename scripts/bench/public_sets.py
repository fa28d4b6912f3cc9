"""The public sets of facts that real models are measured on, read as facts.

The files are those that the authors publish; none is part of this repository. The variable
``PUBLIC_SETS`` names the folder that holds them. Even rows are the half ``dev``, odd rows ``test``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from editors import Fact

COUNTERFACT, ZSRE, QUESTIONS = "CounterFact", "zsRE", "statement to question"
FILES: Mapping[str, Sequence[str]] = {
    COUNTERFACT: ("counterfact-rome.json",),
    ZSRE: ("zsre-mend-edit.json", "zsre-train.json"),
    QUESTIONS: ("mquake-hard.json",),
}
HALVES = ("dev", "test")
WIKITEXT = "wikitext-2-valid.txt"
NEAR = 2  # prompts of each kind
_NQ = "nq question: "  # before the far prompts of zsRE


def public_facts(name: str, half: str) -> list[Fact]:
    """The facts of one half of the set ``name``, each prompt once. Raises SystemExit if
    ``PUBLIC_SETS`` names no folder that holds the files."""
    rows = [row for file in FILES[name] for row in _rows(file)]
    first = HALVES.index(half)
    read = _READERS[name](rows[first::2], rows[1 - first :: 2])
    facts = {fact.prompt: fact for fact in map(Fact.from_dict, read)}
    return [*facts.values()]


def wikitext_sentences(count: int) -> list[str]:
    """The first sentences of the validation text of WikiText-2. Raises SystemExit as above."""
    text = _file(WIKITEXT).replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".")
    paragraphs = (line.strip() for line in text.splitlines())
    prose = (line for line in paragraphs if line and not line.startswith("="))
    found = (part.strip() for line in prose for part in re.split(r"(?<= [.!?]) ", line))
    return [*islice((part for part in found if len(part.split()) >= 5), count)]


def _rows(file: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(_file(file))
    return rows


def _file(name: str) -> str:
    path = Path(os.environ.get("PUBLIC_SETS", "."), name)
    if not path.is_file():
        raise SystemExit(f"PUBLIC_SETS names no folder that holds {name}")
    return path.read_text(encoding="utf-8")


def _counterfact(
    rows: Sequence[dict[str, Any]], _: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Statements; half of the paraphrases follow a sentence of noise. Near: other subjects."""
    for row in rows:
        edit = row["requested_rewrite"]
        yield {
            **_statement(edit),
            "rephrases": row["paraphrase_prompts"],
            "locality": [
                {"prompt": prompt, "kind": "relation"}
                for prompt in row["neighborhood_prompts"][:NEAR]
            ],
        }


def _zsre(
    rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Questions, one row of each subject, as the others often ask the same in other words and with
    another answer. Near: the question about a subject of the other half, on which nothing is
    edited, and the question of another row about this subject."""
    random = Random(0)
    rows = [*{row["subject"]: row for row in reversed(rows)}.values()][::-1]
    edited = {row["subject"] for row in rows}
    unedited = [other["subject"] for other in others if other["subject"] not in edited]
    templates = [row["src"].replace(row["subject"], "{}") for row in rows]
    for row, template in zip(rows, templates, strict=True):
        subject = row["subject"]
        if subject not in row["src"] or subject not in row["rephrase"]:
            continue
        elsewhere = [other for other in templates if _opening(other) != _opening(template)]
        near = [
            *(("relation", template.format(name)) for name in random.sample(unedited, NEAR)),
            *(("subject", other.format(subject)) for other in random.sample(elsewhere, NEAR)),
            ("far", row["loc"].removeprefix(_NQ).capitalize() + "?"),
        ]
        yield {
            "prompt": row["src"],
            "target": row["alt"].strip(),
            "subject": subject,
            "rephrases": [row["rephrase"]],
            "locality": [
                {"prompt": prompt.replace("??", "?"), "kind": kind} for kind, prompt in near
            ],
        }


def _questions(
    rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Statements that are asked as questions. Far: a question of the other half, about a subject
    that no statement of this half has."""
    edits, elsewhere = (
        [edit for row in half for edit in row["requested_rewrite"]] for half in (rows, others)
    )
    subjects = {edit["subject"] for edit in edits}
    far = cycle(
        edit["question"]
        for edit in elsewhere
        if not any(subject in edit["question"] for subject in subjects)
    )
    for edit in edits:
        if edit["subject"] in edit["question"]:
            yield {
                **_statement(edit),
                "rephrases": [edit["question"]],
                "locality": [{"prompt": next(far), "kind": "far"}],
            }


def _statement(edit: Mapping[str, Any]) -> dict[str, str]:
    return {
        "prompt": edit["prompt"].format(edit["subject"]),
        "target": edit["target_new"]["str"],
        "subject": edit["subject"],
        "ground_truth": edit["target_true"]["str"],
    }


def _opening(text: str) -> str:
    """The first words, by which questions are told apart."""
    return " ".join(text.lower().split()[:3])


_Reader = Callable[[Sequence[dict[str, Any]], Sequence[dict[str, Any]]], Iterator[dict[str, Any]]]
"""From the rows of a half, and those of the other half, to facts."""

_READERS: Mapping[str, _Reader] = {
    COUNTERFACT: _counterfact,
    ZSRE: _zsre,
    QUESTIONS: _questions,
}
