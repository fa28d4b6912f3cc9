"""Rows of conflicts for the tiny model, which follows some passages and not others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tiny_models import build, build_tokenizer

Rows = list[dict[str, Any]]

NEUTRAL = "Ann lives in Oslo .\nthe sea of Kenya is red and blue .\n"
SPLITS = ("locate", "dev", "test")


def rows_by_winner() -> dict[str, Rows]:
    """By who wins, "memory" or "context": rows on subjects without edits."""
    from editors.inference.edited_model import EditedModel
    from editors.inference.next_tokens import likeliest
    from editors.model.base_model import Base

    model = EditedModel.unedited(Base.of(build("llama"), build_tokenizer()))
    relations = ("sea", "river", "capital", "leader", "language", "author")
    subjects, ends = ("Kenya", "Spain", "Italy", "Egypt"), ("", " Ann works .")
    answers = ("Paris", "Rome", "Madrid", "Tokyo", "Lima", "Oslo", "Cairo", "red", "green", "Ann")
    rows = [
        {
            "question": f"the {relation} of {subject} is",
            "context": f"the {relation} of {subject} is {answer} .{end}",
            "context_answer": answer,
            "subject": subject,
            "relation": relation,
        }
        for relation, subject, answer, end in product(relations, subjects, answers, ends)
    ]

    def first_words(prompts: Sequence[str]) -> list[str]:
        return [model.base.tokenizer.decode([token]) for token in likeliest(model, prompts)]

    informed = first_words([f"{row['context']} {row['question']}" for row in rows])
    alone = first_words([row["question"] for row in rows])
    by_winner: dict[str, Rows] = {"memory": [], "context": []}
    for row, after_passage, memory in zip(rows, informed, alone, strict=True):
        if after_passage == memory != row["context_answer"]:
            by_winner["memory"].append({**row, "memory_answer": memory})
        elif after_passage == row["context_answer"] != memory:
            by_winner["context"].append({**row, "memory_answer": memory})
    assert len(by_winner["context"]) >= 6
    assert len({row["subject"] for row in by_winner["memory"]}) > 2
    return by_winner


def fifteen_rows(mixed: Mapping[str, Rows]) -> Rows:
    """In each split two that the passage wins and three that memory does."""
    return [
        {**row, "split": split}
        for number, split in enumerate(SPLITS)
        for row in mixed["context"][number::3][:2] + mixed["memory"][number::11][:3]
    ]


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """`path` is now a conflict file with these rows."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
