"""Memories of low rank as adapters of PEFT: the same logits, and only where they can be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, FAST, FRANCE, JAPAN, PERU, edit

from editors import EditorError
from editors.exports.folder import EditConfig
from editors.exports.lora import write_lora
from editors.heads.pruning import Head, HeadMask, HeadPruning
from editors.methods.low_rank import adapter_name
from editors.model.tokenization import encode_prompt

Wises = Callable[..., Any]
LOW_RANK = {**FAST, "memory": "low-rank", "memory_rank": 4, "learning_rate": 8.0, "shard_size": 1}


def exported(method: Any, state: Any, folder: Path, **about: Any) -> dict[str, list[str]]:
    """`state` in `folder`; which facts each adapter has."""
    base = method.base
    config = EditConfig("base", "", "float32", base.layer, "wise", 0, "v0002", "1.0", **about)
    write_lora(method, state, config, folder)
    names: dict[str, list[str]] = json.loads((folder / "adapters.json").read_text())
    assert sorted(names) == sorted(path.name for path in (folder / "adapters").glob("*"))
    return names


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=ids).logits
    return found


@contextmanager
def with_adapter(model: Any, folder: Path) -> Iterator[Any]:
    """A copy of `model` with one adapter, loaded by PEFT."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    yield peft.PeftModel.from_pretrained(deepcopy(model), str(folder)).eval()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "falcon", "opt", "bloom"])
def test_an_adapter_has_the_logits_of_its_memory(
    tiny_wise: Wises, family: str, tmp_path: Path
) -> None:
    method = tiny_wise(family, LOW_RANK)
    base, state = method.base, edit(method, FACTS).state
    names = exported(method, state, tmp_path / "out")
    assert names == {adapter_name(n): [fact.id] for n, fact in enumerate(FACTS)}
    for (name, _), fact in zip(names.items(), FACTS, strict=True):
        ids = torch.tensor([encode_prompt(base.tokenizer, fact.prompt)])
        before = logits(base.model, ids)
        with method.attach(state):
            attached = logits(base.model, ids)
        assert not torch.equal(attached, before)
        with with_adapter(base.model, tmp_path / "out" / "adapters" / name) as model:
            assert torch.equal(logits(model, ids), attached)
            with model.disable_adapter():
                assert torch.equal(logits(model, ids), before)


def test_facts_that_share_a_shard_share_an_adapter(tiny_wise: Wises, tmp_path: Path) -> None:
    method = tiny_wise("llama", {**LOW_RANK, "shard_size": 2})
    names = exported(method, edit(method, FACTS).state, tmp_path / "out")
    assert names == {
        adapter_name(0): [fact.id for fact in FACTS[:2]],
        adapter_name(1): [fact.id for fact in FACTS[2:]],
    }


def test_facts_that_were_taken_back_are_in_no_adapter(tiny_wise: Wises, tmp_path: Path) -> None:
    method = tiny_wise("llama", {**LOW_RANK, "shard_size": 2})
    state = method.remove(edit(method, FACTS).state, [FRANCE.id, JAPAN.id, PERU.id]).state
    assert exported(method, state, tmp_path / "out") == {adapter_name(1): [FACTS[3].id]}


def test_without_facts_there_are_no_adapters(tiny_wise: Wises, tmp_path: Path) -> None:
    method = tiny_wise("llama", LOW_RANK)
    state = method.remove(edit(method, [FRANCE]).state, [FRANCE.id]).state
    assert exported(method, state, tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("wise", FAST, "memory=masked"),
        ("wise", {**LOW_RANK, "merge_every": 2}, "merge_every=2"),
        ("in-context", {"rank": 8}, "in-context has no memories"),
        ("ft-m", None, "ft-m has no memories"),
    ],
)
def test_what_is_not_of_low_rank_is_refused(
    tiny_method: Callable[..., Any], name: str, settings: Any, why: str, tmp_path: Path
) -> None:
    method = tiny_method(name, "llama", settings)
    state = edit(method, [FRANCE]).state
    with pytest.raises(EditorError, match=why) as caught:
        exported(method, state, tmp_path / "out")
    assert "--set memory=low-rank" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_what_an_adapter_cannot_hold_is_refused(tiny_wise: Wises, tmp_path: Path) -> None:
    method = tiny_wise("llama", LOW_RANK)
    state = edit(method, [FRANCE]).state
    pruned = replace(
        state, pruning=HeadPruning("context", HeadMask((Head(0, 1),), 0.5), state.edits)
    )
    with pytest.raises(EditorError, match="pruned heads"):
        exported(method, pruned, tmp_path / "out")
    with pytest.raises(EditorError, match="an adapter merged into it"):
        exported(method, state, tmp_path / "out", adapter="f" * 64)
    assert not (tmp_path / "out").exists()
