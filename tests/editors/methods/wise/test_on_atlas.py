"""WISE on a model that knows language: what edits keep, and what they do not claim.

Both need a model with knowledge to edit: the packaged atlas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_edits import edit

from editcli.files.packaged import datasets_dir
from editors import METHODS, EditorError, Fact
from editors.inference.generation import answers
from editors.methods.applying import NO_CACHE

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
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MODEL is None, reason="datasets/atlas/model does not exist yet"),
]


def lines(name: str) -> Iterator[dict[str, Any]]:
    with (datasets_dir() / name).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


@pytest.fixture(scope="module")
def method() -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from editors.model.base_model import Base

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    base = Base.of(model, AutoTokenizer.from_pretrained(MODEL))
    return METHODS.load("wise").build(base, SETTINGS, 0)


@pytest.fixture(scope="module")
def no_edits(method: Any) -> Any:
    from editors.scope.corpus import Corpus
    from editors.scope.phrasings import Phrasings

    groups = [Phrasings.from_dict(row) for row in lines("calibration.jsonl")]
    return method.start(Corpus(groups), NO_CACHE)


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    """Ten edits on ten subjects."""
    chosen: dict[str, Fact] = {}
    for row in lines("atlas/edits.jsonl"):
        fact = Fact.from_dict(row)
        chosen.setdefault((fact.subject or "").casefold(), fact)
        if len(chosen) == EDITS:
            break
    return list(chosen.values())


@pytest.fixture(scope="module")
def history(method: Any, no_edits: Any, facts: list[Fact]) -> list[Any]:
    """The state after each edit, made one at a time."""
    states: list[Any] = []
    for fact in facts:
        states.append(edit(method, [fact], states[-1] if states else no_edits).state)
    return states


def test_every_edit_is_answered_and_stays_answered_after_each_later_one(
    method: Any, history: list[Any], facts: list[Fact], record_property: Any
) -> None:
    """Greedily, from the bare prompt, and stopping by itself."""
    from editors.evaluation.readings import exact

    retained = []
    for age, state in enumerate(history):
        edited = facts[: age + 1]
        with method.attach(state) as model:
            given = answers(model, [fact.prompt for fact in edited], 16)
        retained.append([exact(a, fact.target) for a, fact in zip(given, edited, strict=True)])
    matrix = "\n".join("".join("+" if ok else "-" for ok in row) for row in retained)
    record_property("retention", matrix)
    assert all(all(row) for row in retained), f"row: edits made; column: edit\n{matrix}"


def test_prompts_of_the_edits_are_claimed(
    method: Any, history: list[Any], facts: list[Fact]
) -> None:
    state = history[-1]
    shard_of = state.payload.shard_of()
    with method.attach(state) as model:
        given = answers(model, [fact.prompt for fact in facts], 1)
    for fact, answer in zip(facts, given, strict=True):
        assert answer.decision is not None
        assert answer.decision.opened
        assert (answer.decision.fact, answer.decision.memory) == (fact.id, shard_of[fact.id])


def unrelated(method: Any, length: int) -> torch.Tensor:
    """int64 ``[TEXTS, length]``: stretches of held-out text, no two of which begin alike."""
    tokenizer = method.base.tokenizer
    held_out = [row["text"] for row in lines("atlas/neutral.jsonl") if row["split"] == "test"]
    stream = tokenizer(" ".join(held_out), add_special_tokens=False)["input_ids"]
    start = list(tokenizer("")["input_ids"][:1])
    wanted = length - len(start)
    rows: dict[tuple[int, ...], list[int]] = {}
    for first in range(0, len(stream) - wanted, max(1, (len(stream) - wanted) // (2 * TEXTS))):
        text = stream[first : first + wanted]
        rows.setdefault(tuple(text[:7]), start + text)
    assert len(rows) >= TEXTS
    return torch.tensor(list(rows.values())[:TEXTS])


class _Decided(Exception):  # noqa: N818 - no error: the answer itself does not matter
    pass


def opened_by(method: Any, state: Any, rows: torch.Tensor) -> list[bool]:
    """For each text whether an edit claims it. Each forward ends once that is decided: before its
    first block where no text names a subject, else behind the edited projection."""
    base, opened = method.base, []
    first = base.model.get_submodule(base.architecture.block(0).path)
    with method.attach(state) as model:

        def stop_if_decided(*_: Any) -> None:
            if model.decisions(calls):
                raise _Decided

        projection = base.model.get_submodule(base.projection.path)
        with (
            first.register_forward_pre_hook(stop_if_decided),
            projection.register_forward_hook(stop_if_decided),
        ):
            for part in rows.split(50):
                with model.noting() as calls, suppress(_Decided), torch.no_grad():
                    base.model(input_ids=part)
                    pytest.fail("a forward was not decided by its edited projection")
                opened += [decision.opened for decision in model.decisions(calls)]
    assert len(opened) == len(rows)
    return opened


@pytest.mark.parametrize("length", LENGTHS)
def test_held_out_texts_are_not_claimed(
    method: Any, history: list[Any], record_property: Any, length: int
) -> None:
    opened = opened_by(method, history[-1], unrelated(method, length))
    record_property("opened", f"{sum(opened)} of {len(opened)}")
    assert sum(opened) == 0


@pytest.mark.parametrize("length", LENGTHS)
def test_without_subjects_few_held_out_texts_are_claimed(
    method: Any, no_edits: Any, facts: list[Fact], record_property: Any, length: int
) -> None:
    """Every text is then a candidate, and nearness alone decides."""
    bare = [replace(fact, subject=None, id="") for fact in facts[:2]]
    state = edit(method, bare, no_edits).state
    rows = unrelated(method, length)
    rows = rows[:: 1 + length // 25]  # each is read in full: of long ones, fewer
    opened = opened_by(method, state, rows)
    record_property("opened", f"{sum(opened)} of {len(opened)}")
    assert sum(opened) <= 0.01 * len(rows), f"{sum(opened)} of {len(rows)}"


def test_the_decision_holds_for_the_whole_of_a_generation(
    method: Any, history: list[Any], facts: list[Fact]
) -> None:
    from editors.model.tokenization import Row, encode_prompt

    base = method.base
    texts = [*(fact.prompt for fact in facts), "The kettle began to whistle, and"]
    prompts = [encode_prompt(base.tokenizer, text) for text in texts]
    batch = base.batch([Row.of_prompt(ids) for ids in prompts], side="left")
    with method.attach(history[-1]) as model, model.noting() as calls:
        base.model.generate(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
        )
    assert len(calls) == 1, "24 tokens, one decision a prompt"
    decisions = model.decisions(calls)
    assert decisions is not None
    assert [decision.opened for decision in decisions] == [True] * EDITS + [False]


def test_edits_yield_to_passages_on_the_edited_fact_and_to_no_others(
    method: Any, history: list[Any], facts: list[Fact]
) -> None:
    """Both directions on the same rows: what is preferred decides."""
    from editors.heads.pruning import HeadMask, HeadPruning

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

    def opened(prompts: Sequence[str], prefer: Any) -> list[bool]:
        pruning = None if prefer is None else HeadPruning(prefer, HeadMask(), state.edits)
        with method.attach(replace(state, pruning=pruning)) as model:
            given = [answers(model, [prompt], 1)[0] for prompt in prompts]
        return [bool(answer.decision and answer.decision.opened) for answer in given]

    as_it_is = opened(contradicted, None)
    assert sum(as_it_is) >= 0.9 * len(as_it_is)
    assert opened(contradicted, "memory") == as_it_is
    assert sum(opened(contradicted, "context")) <= 0.1 * len(as_it_is)
    assert opened(beside, "context") == opened(beside, None)
    assert all(opened([fact.prompt for fact in facts], "context"))
