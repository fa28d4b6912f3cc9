"""Edits as bytes: nothing lost, nothing left to chance, nothing unpickled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_edits import FACTS, FAST, FRANCE, FRANCE_AGAIN, JAPAN, PAPER, edit
from tiny_stores import save_model

from editors import Closed, EditorError, Fact, Probe
from editors.errors import StateMismatch
from editors.heads.head_mask import Head, HeadMask, Resolution
from editors.methods.edit_state import EditState, ShardRecord, to_bytes
from editors.methods.wise.shards import Mask, Shard
from editors.model.tokenization import encode_prompt

Wises = Callable[..., Any]


def record(ids: tuple[str, ...], seed: int = 0, threshold: float = 4.5) -> ShardRecord:
    mask = Mask((5, 7), 0.4, seed)
    values = torch.randn(mask.count, generator=torch.Generator().manual_seed(seed))
    return ShardRecord((ids,), Shard(ids, mask, values, threshold))


def state_of(*facts: Fact) -> EditState:
    ids = tuple(fact.id for fact in facts)
    return EditState(
        "wise",
        {"profile": "paper", "shard_size": 2, "act_ratio": 0.88},
        4,
        "model.layers.4.mlp.down_proj",
        "f" * 64,
        {fact.id: fact for fact in facts},
        {ids[0]: Closed("superseded", ids[-1])},
        (record(ids), record((ids[-1],), 1, float("inf"))),
        {"keys": torch.randn(3, 4, generator=torch.Generator().manual_seed(2))},
    )


def assert_equal(one: EditState, other: EditState) -> None:
    assert one.to_blobs() == other.to_blobs()
    for name in ("method", "settings", "layer", "projection", "fingerprint", "closed"):
        assert getattr(one, name) == getattr(other, name), name
    assert list(one.facts.items()) == list(other.facts.items())
    assert len(one.shards) == len(other.shards)
    for a, b in zip(one.shards, other.shards, strict=True):
        assert (a.groups, a.facts, a.shard.threshold) == (b.groups, b.facts, b.shard.threshold)
        assert torch.equal(a.shard.delta(), b.shard.delta())


def test_edits_survive_a_round_trip() -> None:
    rich = Fact(
        "the capital of France is",
        "Rome",
        subject="France",
        ground_truth="Paris",
        rephrases=("which city",),
        variants=("France , capital :",),
        locality=(Probe("the sea", "blue", "near"),),
        tags=("x",),
    )
    before = state_of(rich, JAPAN)
    assert_equal(EditState.from_blobs(before.to_blobs()), before)


# Text with all that may end a line somewhere, or need escaping.
texts = st.text(st.sampled_from('a é\u2028\u2029\x85\x0b\x1c\n\r\t"\\\U0001f600'), max_size=8)


@given(middle=texts, target=texts)
def test_any_text_of_a_fact_survives(middle: str, target: str) -> None:
    before = state_of(Fact(f"p{middle}q", f"t{target}"), JAPAN)
    after = EditState.from_blobs(before.to_blobs())
    assert list(after.facts.values()) == list(before.facts.values())


def test_equal_edits_are_equal_bytes() -> None:
    assert state_of(*FACTS).to_blobs() == state_of(*FACTS).to_blobs()
    one, two = torch.arange(3.0), torch.ones(2, 2)
    assert to_bytes({"a": one, "b": two}) == to_bytes({"b": two, "a": one})
    assert to_bytes({"b": two.T}) == to_bytes({"b": two.T.contiguous()})


def test_training_twice_gives_the_same_bytes(tiny_wise: Wises) -> None:
    for settings in (None, PAPER):
        one, two = (edit(tiny_wise("llama", settings), FACTS).state for _ in range(2))
        assert one.to_blobs() == two.to_blobs()


def test_blobs_are_json_and_safetensors_with_a_fixed_header() -> None:
    blobs = state_of(*FACTS).to_blobs()
    names = {"facts.jsonl", "edits.json", "router.safetensors"}
    assert set(blobs) == names | {"shard-0000.safetensors", "shard-0001.safetensors"}
    for name, blob in blobs.items():
        if name.endswith(".safetensors"):
            header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
            assert header["__metadata__"] == {"format": "pt"}
    assert json.loads(blobs["edits.json"])["schema"] == 1
    assert [json.loads(line)["id"] for line in blobs["facts.jsonl"].split(b"\n") if line] == [
        fact.id for fact in FACTS
    ]


@pytest.mark.parametrize("name", sorted(state_of(*FACTS).to_blobs()))
@pytest.mark.parametrize(
    "damage",
    [lambda b: None, lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"\xff" + b[1:]],
    ids=["missing", "empty", "cut", "changed"],
)
def test_a_damaged_blob_is_refused(name: str, damage: Any) -> None:
    blobs: dict[str, Any] = dict(state_of(*FACTS).to_blobs())
    damaged = damage(blobs.pop(name))
    if name == "facts.jsonl" and damaged == b"":
        pytest.skip("no facts at all is readable; the store's hashes tell that they are missing")
    if damaged is not None:
        blobs[name] = damaged
    with pytest.raises(StateMismatch) as caught:
        EditState.from_blobs(blobs)
    assert caught.value.message


def test_another_schema_is_refused_by_its_number() -> None:
    blobs = state_of(*FACTS).to_blobs()
    blobs["edits.json"] = blobs["edits.json"].replace(b'"schema": 1', b'"schema": 7')
    with pytest.raises(StateMismatch, match="schema 7, this editcli reads 1"):
        EditState.from_blobs(blobs)


def test_closing_names_what_it_does_not_know() -> None:
    state = state_of(*FACTS)
    closed = state.closing({JAPAN.id: Closed("undone")})
    assert JAPAN not in closed.in_force()
    assert JAPAN in state.in_force(), "states do not change"
    with pytest.raises(EditorError, match="no fact has the id nope"):
        state.closing({"nope": Closed("undone")})


def test_a_fact_is_in_the_newest_shard_that_took_it() -> None:
    twice = replace(state_of(*FACTS), shards=(record((FRANCE.id, JAPAN.id)), record((JAPAN.id,))))
    assert twice.shard_of() == {FRANCE.id: 0, JAPAN.id: 1}


# --- pruned heads -----------------------------------------------------------------------------

HEADS = (Head(1, 2), Head(0, 3))


def resolved(filled: bool = False, at: Any = "all", scale: float = 0.0) -> EditState:
    state = state_of(*FACTS)
    drawn = torch.Generator().manual_seed(3)
    fill = {head: torch.randn(8, generator=drawn) for head in HEADS} if filled else {}
    report = {"heads": [{"layer": 1, "head": 2, "memory": 0.5}], "grid": [], "digest": "é\u2028"}
    mask = HeadMask(HEADS, scale, at, fill)
    return replace(state, resolution=Resolution("memory", mask, state.edits, report))


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize(("at", "scale"), [("all", 0.0), ("end", -0.5), ("end", 0.1)])
def test_pruned_heads_survive_a_round_trip(filled: bool, at: Any, scale: float) -> None:
    before = resolved(filled, at, scale)
    after = EditState.from_blobs(before.to_blobs())
    assert_equal(after, before)
    one, other = before.resolution, after.resolution
    assert one is not None
    assert other is not None
    assert (one.prefer, one.edits, one.report) == (other.prefer, other.edits, other.report)
    assert (other.mask.heads, other.mask.scale, other.mask.at) == (HEADS, scale, at)
    assert all(isinstance(head, Head) for head in other.mask.heads)
    assert one.mask.fill.keys() == other.mask.fill.keys()
    assert all(torch.equal(tensor, other.mask.fill[head]) for head, tensor in one.mask.fill.items())
    assert not after.stale


def test_a_state_without_pruned_heads_says_nothing_of_them() -> None:
    plain = set(state_of(*FACTS).to_blobs())
    assert set(resolved().to_blobs()) == plain | {"head_mask.json"}
    assert set(resolved(filled=True).to_blobs()) == plain | {
        "head_mask.json",
        "head_fill.safetensors",
    }
    assert EditState.from_blobs(state_of(*FACTS).to_blobs()).resolution is None


def test_the_id_of_edits_is_that_of_the_set_in_force() -> None:
    state = replace(state_of(*FACTS), closed={})
    assert len(state.edits) == 12
    assert int(state.edits, 16) >= 0
    turned = replace(state, facts=dict(reversed(state.facts.items())))
    assert turned.edits == state.edits
    closed = state.closing({JAPAN.id: Closed("undone")})
    without = replace(state, facts={k: f for k, f in state.facts.items() if k != JAPAN.id})
    assert closed.edits == without.edits != state.edits
    assert replace(closed, closed={}).edits == state.edits


def test_heads_ranked_with_other_edits_are_stale() -> None:
    state = resolved()
    assert not state.stale
    assert not state_of(*FACTS).stale, "nothing is pruned"
    fewer = state.closing({JAPAN.id: Closed("undone")})
    assert fewer.stale
    assert not replace(fewer, closed=state.closed).stale, "the same edits again"


def told(**changes: Any) -> bytes:
    return json.dumps({**json.loads(resolved().to_blobs()["head_mask.json"]), **changes}).encode()


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"[]",
        b"null",
        told()[:40],
        b"\xff" + told()[1:],
        told(heads=None),
        told(heads=[[1]]),
        told(heads=[[1, 2, 3]]),
        told(heads=[["a", 2]]),
        told(heads=[[1, 2], [1, 2]]),
        told(scale="none"),
        told(at="start"),
        told(prefer="both"),
        told(schema=7),
    ],
)
def test_a_damaged_head_mask_is_refused(damaged: bytes) -> None:
    blobs = {**resolved().to_blobs(), "head_mask.json": damaged}
    with pytest.raises(StateMismatch) as caught:
        EditState.from_blobs(blobs)
    assert caught.value.message


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2]])
def test_damaged_means_of_heads_are_refused(damage: Any) -> None:
    blobs = dict(resolved(filled=True).to_blobs())
    blobs["head_fill.safetensors"] = damage(blobs["head_fill.safetensors"])
    with pytest.raises(StateMismatch):
        EditState.from_blobs(blobs)


# --- another process (property 15) ------------------------------------------------------------

LOAD = """
import sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from safetensors.torch import save_file
from editors.model.base_model import Base
from editors.methods.wise.method import Wise
from editors.methods.edit_state import EditState

def refuse(event, args):
    if event == "pickle.find_class":
        raise RuntimeError(f"unpickled {args}")

sys.addaudithook(refuse)
folder = Path(sys.argv[1])
torch.set_num_threads(1)
base = Base.of(
    AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
)
found = {}
for edits in sorted(folder.glob("edits-*")):
    state = EditState.from_blobs({p.name: p.read_bytes() for p in edits.iterdir()})
    ids = torch.tensor(eval((folder / "prompts").read_text()))
    with Wise(base, state.settings, 0).attach(state) as here, torch.no_grad():
        found[edits.name] = base.model(input_ids=ids).logits
        found[f"{edits.name}-routes"] = torch.tensor([d.shard for d in here.decisions])
save_file(found, folder / "found.safetensors")
"""


def test_saved_edits_give_the_same_logits_in_another_process_without_pickle(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from editors.methods.wise.method import Wise
    from editors.model.base_model import Base

    save_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    base = Base.of(AutoModelForCausalLM.from_pretrained(tmp_path), tokenizer)
    prompts = [encode_prompt(tokenizer, f.prompt) for f in (FRANCE, JAPAN)]
    prompts.append(encode_prompt(tokenizer, "the sea and the mountain"))
    (tmp_path / "prompts").write_text(repr(prompts))
    wanted = {}
    for name, settings in (("edits-robust", FAST), ("edits-paper", PAPER)):
        method = Wise(base, settings, 0)
        state = edit(method, [*FACTS, FRANCE_AGAIN]).state
        (tmp_path / name).mkdir()
        for blob, content in state.to_blobs().items():
            (tmp_path / name / blob).write_bytes(content)
        with method.attach(state) as here, torch.no_grad():
            wanted[name] = base.model(input_ids=torch.tensor(prompts)).logits
            wanted[f"{name}-routes"] = torch.tensor([d.shard for d in here.decisions])
        assert wanted[f"{name}-routes"].max() >= 0, "something is routed"
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True, timeout=120)
    found = load_file(tmp_path / "found.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
