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
from tiny_edits import (
    FACTS,
    FAST,
    FRANCE,
    FRANCE_AGAIN,
    JAPAN,
    PAPER,
    PERU,
    SETTINGS,
    edit,
    reopened,
)
from tiny_stores import save_model

from editors import METHODS, EditorError, Fact, FactClosure, Probe
from editors.errors import StateMismatch
from editors.heads.pruning import Head, HeadMask, HeadPruning
from editors.inference.next_tokens import after_prompts
from editors.methods.edit_state import EditState
from editors.model.saved_payload import SavedPayload

MethodOf = Callable[..., Any]
PAYLOAD = SavedPayload({"own": [1, "é"]}, {"own.bin": b"\x00\xff"})


def state_of(*facts: Fact, payload: Any = PAYLOAD) -> EditState:
    """The first of ``facts`` is closed by the last."""
    ids = tuple(fact.id for fact in facts)
    return EditState(
        "wise",
        {"profile": "paper", "shard_size": 2, "act_ratio": 0.88},
        4,
        ("model.layers.4.mlp.down_proj",),
        "f" * 64,
        payload,
        {fact.id: fact for fact in facts},
        {ids[0]: FactClosure("superseded", ids[-1])},
    )


def blobs_of(state: EditState) -> dict[str, bytes]:
    assert isinstance(state.payload, SavedPayload)
    return state.to_blobs()


def assert_equal(one: EditState, other: EditState) -> None:
    assert one == other
    assert list(one.facts.items()) == list(other.facts.items()), "in the order of editing"
    assert blobs_of(one) == blobs_of(other)


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
    assert_equal(EditState.from_blobs(blobs_of(before)), before)


def test_a_near_probe_that_an_older_release_recorded_is_kept_as_it_is() -> None:
    blobs = blobs_of(replace(state_of(FRANCE), closed={}))
    [line] = blobs["facts.jsonl"].splitlines()
    recorded = {**json.loads(line), "locality": [{"prompt": "the sea", "kind": "near"}]}
    blobs["facts.jsonl"] = json.dumps(recorded, sort_keys=True).encode() + b"\n"
    state = EditState.from_blobs(blobs)
    assert state.facts[FRANCE.id].locality == (Probe("the sea", kind="near"),)
    assert blobs_of(state) == blobs


# Text with all that may end a line somewhere, or need escaping.
texts = st.text(st.sampled_from('a é\u2028\u2029\x85\x0b\x1c\n\r\t"\\\U0001f600'), max_size=8)


@given(middle=texts, target=texts)
def test_any_text_of_a_fact_survives(middle: str, target: str) -> None:
    before = state_of(Fact(f"p{middle}q", f"t{target}"), JAPAN)
    after = EditState.from_blobs(blobs_of(before))
    assert list(after.facts.values()) == list(before.facts.values())


def test_equal_edits_are_equal_bytes() -> None:
    assert blobs_of(state_of(*FACTS)) == blobs_of(state_of(*FACTS))


def test_a_fact_that_was_recorded_twice_counts_where_it_was_recorded_last() -> None:
    blobs = blobs_of(replace(state_of(FRANCE, JAPAN), closed={}))
    first, second = blobs["facts.jsonl"].splitlines(keepends=True)
    blobs["facts.jsonl"] = first + second + first
    assert EditState.from_blobs(blobs).in_force() == [JAPAN, FRANCE]


def test_edits_are_json_beside_what_the_method_keeps() -> None:
    blobs = blobs_of(state_of(*FACTS))
    assert set(blobs) == {"facts.jsonl", "edits.json", "own.bin"}
    edits = json.loads(blobs["edits.json"])
    assert (edits["schema"], edits["payload"]) == (3, PAYLOAD.summary)
    assert [json.loads(line)["id"] for line in blobs["facts.jsonl"].split(b"\n") if line] == [
        fact.id for fact in FACTS
    ]


def damaged(damage: str, blob: bytes) -> bytes | None:
    return {"missing": None, "empty": b"", "cut": blob[: len(blob) // 2], "changed": b"\xff"}[
        damage
    ]


@pytest.mark.parametrize("name", ["facts.jsonl", "edits.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed"])
def test_a_damaged_record_is_refused(name: str, damage: str) -> None:
    blobs = blobs_of(state_of(*FACTS))
    left = damaged(damage, blobs.pop(name))
    if left is not None:
        blobs[name] = left
    with pytest.raises(StateMismatch) as caught:
        EditState.from_blobs(blobs)
    assert caught.value.message


def edits_with(**changes: Any) -> bytes:
    return json.dumps({**json.loads(blobs_of(state_of(*FACTS))["edits.json"]), **changes}).encode()


@pytest.mark.parametrize(
    "edits",
    [
        b"[]",
        b"null",
        edits_with(modules=None),
        edits_with(closed={FRANCE.id: {"reason": "lost", "replaced_by": None}}),
        edits_with(closed={FRANCE.id: {"reason": "undone", "by": None}}),
        edits_with(closed={FRANCE.id: {"replaced_by": None}}),
        edits_with(closed={FRANCE.id: "undone"}),
        edits_with(closed={"nobody": {"reason": "undone", "replaced_by": None}}),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(edits: bytes) -> None:
    with pytest.raises(StateMismatch):
        EditState.from_blobs({**blobs_of(state_of(*FACTS)), "edits.json": edits})


def test_another_schema_is_refused_by_its_number() -> None:
    blobs = {**blobs_of(state_of(*FACTS)), "edits.json": edits_with(schema=7)}
    with pytest.raises(StateMismatch, match="schema 7, this editcli reads schema 3"):
        EditState.from_blobs(blobs)


def test_closing_names_what_it_does_not_know() -> None:
    state = state_of(*FACTS)
    closed = state.closing({JAPAN.id: FactClosure("undone")})
    assert JAPAN not in closed.in_force()
    assert JAPAN in state.in_force(), "states do not change"
    with pytest.raises(EditorError, match="no fact has an id that starts with 'nope'"):
        state.closing({"nope": FactClosure("undone")})


def test_closing_by_the_start_of_an_id_leaves_nothing_in_force_that_was_to_be_closed() -> None:
    state = state_of(*FACTS)
    try:
        closed = state.closing({JAPAN.id[:6]: FactClosure("undone")})
    except EditorError:
        return
    assert JAPAN not in closed.in_force()
    assert_equal(EditState.from_blobs(blobs_of(closed)), closed)


def test_a_fact_is_known_by_the_start_of_its_id() -> None:
    twins = [Fact(f"twin {n}", "x", id=f"twin-{n}") for n in range(7)]
    state = state_of(JAPAN, *twins, Fact("longer", "x", id="twin-1-b"))
    assert state.find(JAPAN.id[:5]) == JAPAN
    assert state.find("twin-1") == twins[1], "a whole id is itself, though another starts so"
    with pytest.raises(EditorError, match=r"8 facts .* twin-0, twin-1, .* and 3 more"):
        state.find("twin")
    with pytest.raises(EditorError, match="no fact has an id that starts with ''"):
        state.find("")


# --- with a method ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS.names())
def test_trained_edits_survive_saving_and_opening(tiny_method: MethodOf, name: str) -> None:
    method = tiny_method(name)
    state = edit(method, [*FACTS, FRANCE_AGAIN]).state
    saved = method.save(state)
    loaded = EditState.from_blobs(saved)
    assert isinstance(loaded.payload, SavedPayload), "nothing is loaded before it is opened"
    opened = method.open(loaded)
    assert type(opened.payload) is type(state.payload)
    assert method.save(opened) == saved
    assert method.open(opened) is opened
    for field in ("method", "settings", "layer", "modules", "fingerprint", "closed", "facts"):
        assert getattr(opened, field) == getattr(state, field), field
    assert list(opened.facts) == list(state.facts)


@pytest.mark.parametrize("settings", [None, PAPER], ids=["robust", "paper"])
def test_training_twice_gives_the_same_bytes(tiny_method: MethodOf, settings: Any) -> None:
    methods = [tiny_method("wise", "llama", settings) for _ in range(2)]
    one, two = (method.save(edit(method, FACTS).state) for method in methods)
    assert one == two


@pytest.mark.parametrize("name", METHODS.names())
def test_what_a_method_keeps_is_safetensors_with_a_fixed_header(
    tiny_method: MethodOf, name: str
) -> None:
    method = tiny_method(name)
    own = {
        blob: data
        for blob, data in method.save(edit(method, FACTS[:2]).state).items()
        if blob not in ("facts.jsonl", "edits.json")
    }
    assert own
    for blob, data in own.items():
        assert blob.endswith(".safetensors")
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        assert header["__metadata__"] == {"format": "pt"}


# --- pruned heads -----------------------------------------------------------------------------

HEADS = (Head(1, 2), Head(0, 3))


def pruning_in(state: EditState, at: Any = "all", scale: float = 0.0, **kinds: Any) -> EditState:
    report = {"heads": [{"layer": 1, "head": 2, "memory": 0.5}], "grid": [], "digest": "é\u2028"}
    mask = HeadMask(HEADS, scale, at, **kinds)
    return replace(state, pruning=HeadPruning("memory", mask, state.edits, report))


@pytest.fixture(scope="module")
def edited(tiny_method: MethodOf) -> tuple[Any, EditState]:
    method = tiny_method("in-context")
    return method, edit(method, FACTS).state


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize(("at", "scale"), [("all", 0.0), ("end", -0.5), ("end", 0.1)])
def test_pruned_heads_survive_a_round_trip(
    edited: tuple[Any, EditState], filled: bool, at: Any, scale: float
) -> None:
    method, state = edited
    drawn = torch.Generator().manual_seed(3)
    fill = {head: torch.randn(8, generator=drawn) for head in HEADS} if filled else {}
    before = pruning_in(state, at, scale, fill=fill)
    after = reopened(method, before)
    assert method.save(after) == method.save(before)
    one, other = before.pruning, after.pruning
    assert one is not None
    assert other is not None
    assert (one.prefer, one.edits, one.report) == (other.prefer, other.edits, other.report)
    assert (other.mask.heads, other.mask.scale, other.mask.at) == (HEADS, scale, at)
    assert all(isinstance(head, Head) for head in other.mask.heads)
    assert one.mask.fill.keys() == other.mask.fill.keys()
    assert all(torch.equal(tensor, other.mask.fill[head]) for head, tensor in one.mask.fill.items())
    assert not after.stale


def test_a_state_without_pruned_heads_has_no_record_of_them(edited: tuple[Any, EditState]) -> None:
    method, state = edited
    plain = set(method.save(state))
    fill = {head: torch.zeros(8) for head in HEADS}
    assert set(method.save(pruning_in(state))) == plain | {"head_mask.json"}
    assert set(method.save(pruning_in(state, fill=fill))) == plain | {
        "head_mask.json",
        "head_fill.safetensors",
    }
    assert reopened(method, state).pruning is None


def test_the_id_of_edits_is_that_of_the_set_in_force() -> None:
    state = replace(state_of(*FACTS), closed={})
    assert len(state.edits) == 12
    assert int(state.edits, 16) >= 0
    turned = replace(state, facts=dict(reversed(state.facts.items())))
    assert turned.edits == state.edits
    closed = state.closing({JAPAN.id: FactClosure("undone")})
    without = replace(state, facts={k: f for k, f in state.facts.items() if k != JAPAN.id})
    assert closed.edits == without.edits != state.edits
    assert replace(closed, closed={}).edits == state.edits


def test_heads_ranked_with_other_edits_are_stale() -> None:
    state = pruning_in(state_of(*FACTS))
    assert not state.stale
    assert not state_of(*FACTS).stale, "nothing is pruned"
    fewer = state.closing({JAPAN.id: FactClosure("undone")})
    assert fewer.stale
    assert not replace(fewer, closed=state.closed).stale, "the same edits again"


def test_only_heads_that_are_pruned_for_the_context_prefer_it() -> None:
    state = pruning_in(state_of(*FACTS))
    assert state.pruning is not None
    assert not state_of(*FACTS).prefers_context
    assert not state.prefers_context
    assert replace(state, pruning=replace(state.pruning, prefer="context")).prefers_context


def mask_with(**changes: Any) -> bytes:
    record = json.loads(blobs_of(pruning_in(state_of(*FACTS)))["head_mask.json"])
    return json.dumps({**record, **changes}).encode()


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"[]",
        b"null",
        mask_with()[:40],
        b"\xff" + mask_with()[1:],
        mask_with(heads=None),
        mask_with(heads=[[1]]),
        mask_with(heads=[[1, 2, 3]]),
        mask_with(heads=[["a", 2]]),
        mask_with(heads=[[1, 2], [1, 2]]),
        mask_with(scale="none"),
        mask_with(at="start"),
        mask_with(prefer="both"),
        mask_with(schema=7),
    ],
)
def test_a_damaged_head_mask_is_refused(damaged: bytes) -> None:
    blobs = {**blobs_of(pruning_in(state_of(*FACTS))), "head_mask.json": damaged}
    with pytest.raises(StateMismatch) as caught:
        EditState.from_blobs(blobs)
    assert caught.value.message


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2]])
def test_damaged_means_of_heads_are_refused(edited: tuple[Any, EditState], damage: Any) -> None:
    method, state = edited
    fill = {head: torch.zeros(8) for head in HEADS}
    blobs = method.save(pruning_in(state, fill=fill))
    blobs["head_fill.safetensors"] = damage(blobs["head_fill.safetensors"])
    with pytest.raises(StateMismatch):
        method.open(EditState.from_blobs(blobs))


# --- another process --------------------------------------------------------------------------

READ = """
import sys
from pathlib import Path
from editors.methods.edit_state import EditState

state = EditState.from_blobs({p.name: p.read_bytes() for p in Path(sys.argv[1]).iterdir()})
assert len(state.in_force()) == 4
sys.exit("torch" in sys.modules)
"""

LOAD = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from safetensors.torch import save_file
from editors import METHODS
from editors.inference.next_tokens import after_prompts
from editors.methods.edit_state import EditState
from editors.model.base_model import Base

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
    saved = EditState.from_blobs({p.name: p.read_bytes() for p in edits.iterdir()})
    method = METHODS.load(saved.method).build(base, saved.settings, 0)
    with method.attach(method.open(saved)) as model:
        prompts = json.loads((folder / "prompts.json").read_text())
        results = after_prompts(model, prompts, lambda logits, _: [*logits.clone()])
    found[edits.name] = torch.stack([logits for logits, _ in results])
    found[f"{edits.name}-memories"] = torch.tensor([d.memory if d else 99 for _, d in results])
save_file(found, folder / "found.safetensors")
"""


@pytest.mark.slow
def test_saved_edits_give_the_same_logits_in_another_process_without_pickle(
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from editors.model.base_model import Base

    save_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    base = Base.of(AutoModelForCausalLM.from_pretrained(tmp_path), tokenizer)
    prompts = [fact.prompt for fact in (FRANCE, JAPAN, PERU)] + ["the sea and the mountain"]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    kinds = {name: (name, SETTINGS[name]) for name in METHODS.names()}
    kinds |= {"robust": ("wise", FAST), "paper": ("wise", PAPER)}
    wanted = {}
    for kind, (name, settings) in kinds.items():
        method = METHODS.load(name).build(base, settings, 0)
        state = edit(method, [*FACTS, FRANCE_AGAIN]).state
        folder = tmp_path / f"edits-{kind}"
        folder.mkdir()
        for blob, content in method.save(state).items():
            (folder / blob).write_bytes(content)
        with method.attach(state) as model:
            results = after_prompts(model, prompts, lambda logits, _: [*logits.clone()])
        wanted[folder.name] = torch.stack([logits for logits, _ in results])
        memories = torch.tensor([d.memory if d else 99 for _, d in results])
        wanted[f"{folder.name}-memories"] = memories
        assert memories.max() >= 0, "some prompt is answered by an edit"
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True, timeout=120)
    found = load_file(tmp_path / "found.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    reading = [sys.executable, "-c", READ, str(tmp_path / "edits-robust")]
    assert subprocess.run(reading, check=False, timeout=60).returncode == 0, "needs torch"
