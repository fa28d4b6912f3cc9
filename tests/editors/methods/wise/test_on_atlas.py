"""WISE on a model that knows language: what edits keep, and what stays out of the gate.

Properties 12 and 13 of the method need a model with knowledge to edit, the packaged atlas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_edits import edit

from editcli.files.packaged import datasets_dir
from editors import EditorError, Fact

SETTINGS = {"shard_size": 5}  # ten edits fill two shards
EDITS, TEXTS = 10, 1000
LENGTHS = (8, 64, 101, 400)  # tokens


def folder() -> Path | None:
    """The folder of the packaged model, where there is one."""
    try:
        model = datasets_dir() / "atlas" / "model"
    except EditorError:
        return None
    return model if (model / "config.json").is_file() else None


MODEL = folder()
pytestmark = pytest.mark.skipif(MODEL is None, reason="datasets/atlas/model does not exist yet")


def lines(name: str) -> Iterator[dict[str, Any]]:
    with (datasets_dir() / name).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


@pytest.fixture(scope="module")
def method() -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from editors.methods.wise.method import Wise
    from editors.model.base_model import Base

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    return Wise(Base.of(model, AutoTokenizer.from_pretrained(MODEL)), SETTINGS, 0)


@pytest.fixture(scope="module")
def no_edits(method: Any) -> Any:
    from editors.scope.calibration import Phrasings

    return method.empty([Phrasings.from_dict(row) for row in lines("calibration.jsonl")])


def subjects_of(fact: Fact) -> str:
    return (fact.subject or "").casefold()


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    """Ten edits on ten subjects."""
    chosen: dict[str, Fact] = {}
    for row in lines("atlas/edits.jsonl"):
        fact = Fact.from_dict(row)
        chosen.setdefault(subjects_of(fact), fact)
        if len(chosen) == EDITS:
            break
    return list(chosen.values())


@pytest.fixture(scope="module")
def history(method: Any, no_edits: Any, facts: list[Fact]) -> list[Any]:
    """The state after each edit, made one at a time."""
    states = []
    for fact in facts:
        states.append(edit(method, [fact], states[-1] if states else no_edits).state)
    return states


def test_every_edit_is_answered_and_stays_answered_after_each_later_one(
    method: Any, history: list[Any], facts: list[Fact], record_property: Any
) -> None:
    """Property 12: greedy, from the bare prompt, and stopping by itself."""
    from editors.evaluation.metrics import is_right
    from editors.inference.generation import answers

    retained = []
    for age, state in enumerate(history):
        asked = facts[: age + 1]
        with method.attach(state):
            said = answers(method.base, [fact.prompt for fact in asked], 16)
        retained.append([is_right(a, fact.target) for a, fact in zip(said, asked, strict=True)])
    matrix = "\n".join("".join("+" if ok else "-" for ok in row) for row in retained)
    record_property("retention", matrix)
    assert all(all(row) for row in retained), f"row: edits made; column: edit asked\n{matrix}"


def test_prompts_of_the_edits_open_the_gate(
    method: Any, history: list[Any], facts: list[Fact]
) -> None:
    from editors.inference.generation import answers

    state = history[-1]
    with method.attach(state) as here:
        for fact in facts:
            answers(method.base, [fact.prompt], 1)
            decision = here.decisions[0]
            assert decision.opened
            assert (decision.fact, decision.shard) == (fact.id, state.shard_of()[fact.id])


def irrelevant(method: Any, length: int) -> torch.Tensor:
    """int64 ``[TEXTS, length]``: stretches of held-out text, no two of which begin alike."""
    tokenizer = method.base.tokenizer
    held_out = [row["text"] for row in lines("atlas/neutral.jsonl") if row["split"] == "test"]
    stream = tokenizer(" ".join(held_out), add_special_tokens=False)["input_ids"]
    start = list(tokenizer("")["input_ids"][:1])
    wanted = length - len(start)
    rows: dict[tuple[int, ...], list[int]] = {}
    for place in range(0, len(stream) - wanted, max(1, (len(stream) - wanted) // (2 * TEXTS))):
        text = stream[place : place + wanted]
        rows.setdefault(tuple(text[:7]), start + text)
    assert len(rows) >= TEXTS
    return torch.tensor(list(rows.values())[:TEXTS])


class _Decided(Exception):  # noqa: N818 - no error: the answer itself is of no interest
    pass


def opened_by(method: Any, state: Any, rows: torch.Tensor) -> list[bool]:
    """For each text whether the gate opens, decided before the model runs."""
    found: list[bool] = []

    def note(_: Any, decisions: Any) -> None:
        found.extend(decision.opened for decision in decisions)
        raise _Decided

    with method.attach(state) as here, here.noting(note):
        for part in rows.split(50):
            with suppress(_Decided):
                method.base.model(input_ids=part)
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("length", LENGTHS)
def test_held_out_texts_stay_out_of_the_gate(
    method: Any, history: list[Any], record_property: Any, length: int
) -> None:
    """Property 13."""
    opened = opened_by(method, history[-1], irrelevant(method, length))
    record_property("opened", f"{sum(opened)} of {len(opened)}")
    assert sum(opened) == 0


@pytest.mark.parametrize("length", LENGTHS)
def test_without_subjects_few_held_out_texts_open_the_gate(
    method: Any, no_edits: Any, facts: list[Fact], record_property: Any, length: int
) -> None:
    """Property 13 where every text is a candidate, and nearness alone decides."""
    state = edit_without_subjects(method, no_edits, facts[:2])
    rows = irrelevant(method, length)
    rows = rows[:: 1 + length // 25]  # each is looked at in full: of long ones, fewer
    opened = opened_by(method, state, rows)
    record_property("opened", f"{sum(opened)} of {len(opened)}")
    assert sum(opened) <= 0.01 * len(rows), f"{sum(opened)} of {len(rows)}"


def edit_without_subjects(method: Any, no_edits: Any, facts: list[Fact]) -> Any:
    return edit(method, [replace(fact, subject=None, id="") for fact in facts], no_edits).state


def test_the_decision_holds_for_the_whole_of_a_generation(
    method: Any, history: list[Any], facts: list[Fact]
) -> None:
    from editors.model.tokenization import Row, encode_prompt

    base = method.base
    texts = [*(fact.prompt for fact in facts), "The kettle began to whistle, and"]
    prompts = [encode_prompt(base.tokenizer, text) for text in texts]
    batch = base.batch([Row(ids, len(ids)) for ids in prompts], side="left")
    heard: list[Any] = []
    with method.attach(history[-1]) as here, here.noting(lambda *told: heard.append(told)):
        base.model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
        )
    assert len(heard) == 1, "24 tokens, one decision a prompt"
    assert [decision.opened for decision in heard[0][1]] == [True] * EDITS + [False]


def test_the_gate_yields_to_passages_on_the_edited_fact_and_to_no_others(
    method: Any, history: list[Any], facts: list[Fact]
) -> None:
    """Both directions on the same rows: what is preferred decides."""
    from editors.heads.head_mask import HeadMask, Resolution
    from editors.inference.generation import answers

    state, third = history[-1], [fact.target for fact in (*facts[1:], facts[0])]
    contradicted = [
        f"{text} {other}. {fact.prompt}"
        for fact, other in zip(facts, third, strict=True)
        for text in (fact.prompt, *fact.rephrases)
        if not text.endswith("?")
    ]
    beside = [
        f"{other.prompt} {other.target}. {fact.prompt}"
        for fact, other in zip(facts, (*facts[1:], facts[0]), strict=True)
    ]
    assert len(contradicted) > EDITS

    def opened(prompts: list[str], prefer: Any) -> list[bool]:
        resolution = None if prefer is None else Resolution(prefer, HeadMask(), state.edits)
        with method.attach(replace(state, resolution=resolution)) as here:
            found = []
            for prompt in prompts:
                answers(method.base, [prompt], 1)
                found.append(here.decisions[0].opened)
            return found

    as_it_is = opened(contradicted, None)
    assert sum(as_it_is) >= 0.9 * len(as_it_is)
    assert opened(contradicted, "memory") == as_it_is
    assert sum(opened(contradicted, "context")) <= 0.1 * len(as_it_is)
    assert opened(beside, "context") == opened(beside, None)
    assert all(opened([fact.prompt for fact in facts], "context"))
