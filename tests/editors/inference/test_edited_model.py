"""Attaching: rows keep to themselves, the base is itself again, nothing is left behind."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_configs import EDITABLE
from tiny_edits import FACTS, PAPER, edit, no_edits
from tiny_models import quick_first

from editors import EditorError
from editors.inference.decisions import Decision, Proposal
from editors.inference.edited_model import attached
from editors.methods.wise.memory_layer import SideMemoryLinear
from editors.methods.wise.shards import Mask, Shard
from editors.model.hooks import StandIn
from editors.model.tokenization import Ids, Row, encode_prompt

BaseOf = Callable[..., Any]
FAMILIES = ["gpt2", "gptj", "llama", "gemma2", "opt", "bloom", "falcon"]
PROMPTS = [(1, 5, 9, 20), (1, 8), (1, 33, 12, 64, 70, 18, 22), (1, 50, 51, 7)]
OPENED = {PROMPTS[0]: 0, PROMPTS[2]: 1}  # the others are answered by the base


class Table:
    """Routes by a written table, and notes which prompts it was given."""

    reads: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.given: list[Ids] = []

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        self.given += prompts
        return Proposal(prompts, [Decision(OPENED.get(prompt, -1)) for prompt in prompts])

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        return proposal.decisions


def shards(base: Any) -> list[Shard]:
    shape = (base.projection.out_features, base.projection.in_features)
    made = []
    for seed in range(2):
        mask = Mask(shape, 0.3, seed)
        generator = torch.Generator().manual_seed(seed)
        made.append(Shard((), mask, torch.randn(int(mask.entries().sum()), generator=generator)))
    return made


def with_shards(base: Any, router: Any) -> Any:
    """The base with two random shards, routed by ``router``."""
    path = base.projection.path
    layer = SideMemoryLinear(base.model.get_submodule(path), shards(base))
    return attached(base, {path: layer}, router)


def batch_of(base: Any, prompts: Sequence[Ids], side: str) -> dict[str, torch.Tensor]:
    batch = base.batch([Row.of_prompt(prompt) for prompt in prompts], side=side)
    return {"input_ids": batch.ids, "attention_mask": batch.mask}


@torch.no_grad()
def score(base: Any, prompts: Sequence[Ids], side: str = "right") -> torch.Tensor:
    logits: torch.Tensor = base.model(**batch_of(base, prompts, side)).logits
    return logits


def generate(base: Any, prompts: Sequence[Ids]) -> torch.Tensor:
    """The logits of four generated tokens: ``[prompts, 4, vocab]``."""
    out = base.model.generate(
        **batch_of(base, prompts, "left"),
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(out.logits, 1)


def traces(model: Any) -> tuple[Any, ...]:
    """All that attaching might leave on a model."""
    weights = {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }
    hooks = sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )
    modules = [id(module) for module in model.modules()]
    return weights, hooks, modules, model.training, "generate" in vars(model)


@contextmanager
def leaving_no_trace(model: Any) -> Iterator[None]:
    before = traces(model)
    yield
    assert traces(model) == before


# --- without edits --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_without_edits_the_attached_model_is_the_base_bit_for_bit(
    tiny_wise: Callable[..., Any], family: str
) -> None:
    method = tiny_wise(family)
    base, state = method.base, no_edits(method)
    for side in ("left", "right"):
        plain = score(base, PROMPTS, side)
        with method.attach(state):
            assert torch.equal(score(base, PROMPTS, side), plain)
    plain = generate(base, PROMPTS)
    with method.attach(state):
        assert torch.equal(generate(base, PROMPTS), plain)


# --- mixed batches --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_unrouted_rows_are_the_base_bit_for_bit_in_a_mixed_batch(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    for side in ("left", "right"):
        plain = score(base, PROMPTS, side)
        with with_shards(base, Table()):
            mixed = score(base, PROMPTS, side)
        for row, prompt in enumerate(PROMPTS):
            assert torch.equal(mixed[row], plain[row]) == (prompt not in OPENED)
    plain = generate(base, PROMPTS)
    with with_shards(base, Table()):
        mixed = generate(base, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        assert torch.equal(mixed[row], plain[row]) == (prompt not in OPENED)


@pytest.mark.parametrize("family", quick_first(EDITABLE))
def test_a_row_in_a_batch_answers_as_it_does_alone(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    with with_shards(base, Table()):
        left, right = (score(base, PROMPTS, side) for side in ("left", "right"))
        generated = generate(base, PROMPTS)
        for row, prompt in enumerate(PROMPTS):
            n = len(prompt)
            alone = score(base, [prompt])[0]
            torch.testing.assert_close(right[row, :n], alone, atol=1e-4, rtol=1e-3)
            if family not in ("gpt2", "opt"):  # whose plain forward counts pads as positions
                torch.testing.assert_close(left[row, -n:], alone, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(
                generated[row], generate(base, [prompt])[0], atol=1e-4, rtol=1e-3
            )


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_routed_row_goes_through_the_edited_weight_itself(
    tiny_base: BaseOf, family: str, fresh_tiny_model: Callable[[str], Any]
) -> None:
    base = tiny_base(family)
    with with_shards(base, Table()):
        routed = score(base, [PROMPTS[2]])
    changed = fresh_tiny_model(family)
    with torch.no_grad():
        base.projection.weight(changed).add_(shards(base)[1].delta())
        wanted = changed(input_ids=torch.tensor([PROMPTS[2]])).logits
    torch.testing.assert_close(routed, wanted, atol=1e-4, rtol=1e-3)


# --- what the router is given ---------------------------------------------------------------------


def test_the_router_sees_real_tokens_of_the_prompt_only(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with_targets = [(*prompt, 80, 81) for prompt in PROMPTS]
    for side in ("left", "right"):
        router = Table()
        with with_shards(base, router) as model:
            score(base, PROMPTS, side)
            with model.scoring(torch.tensor([len(p) for p in PROMPTS])):
                score(base, with_targets, side)
            score(base, with_targets, side)
        assert router.given == [*PROMPTS, *PROMPTS, *with_targets]


def test_each_call_is_noted_once_with_its_prompts_and_decisions(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with with_shards(base, Table()) as model:
        with model.noting() as calls:
            generate(base, PROMPTS)
        generate(base, PROMPTS[:1])
    assert [call.prompts for call in calls] == [PROMPTS]
    decisions = model.decisions(calls)
    assert [decision.memory for decision in decisions] == [OPENED.get(p, -1) for p in PROMPTS]


def test_the_token_ids_may_come_by_position(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with with_shards(base, Table()) as model, torch.no_grad(), model.noting() as calls:
        base.model(torch.tensor([PROMPTS[0]]))
    assert [decision.memory for decision in model.decisions(calls)] == [0]


def test_probing_forwards_are_the_unedited_base_s_own(tiny_base: BaseOf) -> None:
    base, router = tiny_base("llama"), Table()
    plain = score(base, PROMPTS)
    with with_shards(base, router) as model, model.noting() as calls:
        with base.probing():
            assert torch.equal(score(base, PROMPTS), plain)
        assert (router.given, calls) == ([], [])
        assert not torch.equal(score(base, PROMPTS), plain)


def test_two_attachments_at_once_are_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with (
        with_shards(base, Table()),
        pytest.raises(EditorError, match="attached to this model already"),
        with_shards(base, Table()),
    ):
        pass


@pytest.mark.parametrize("path", ["lm_head", "model.layers.1"])
def test_a_module_outside_the_blocks_or_a_whole_block_may_be_replaced(
    tiny_base: BaseOf, path: str
) -> None:
    """The router then has no states of the answering forward, as they may be changed already."""

    class Reader(Table):
        reads = (1,)

        def propose(self, prompts: Sequence[Ids]) -> Proposal:
            return Proposal(prompts, [], {0: [0]})

        def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
            assert states is None
            return [Decision(0)]

    base = tiny_base("llama")
    plain = score(base, PROMPTS[:1])
    own = base.model.get_submodule(path)
    with (
        attached(base, {path: StandIn(own, forward=own.forward)}, Reader()) as model,
        model.noting() as calls,
    ):
        assert torch.equal(score(base, PROMPTS[:1]), plain)
    assert [decision.memory for decision in model.decisions(calls)] == [0]


# --- no trace -------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [None, PAPER], ids=["robust", "paper"])
def test_editing_and_answering_leave_no_trace_on_the_base(
    tiny_wise: Callable[..., Any], settings: Any
) -> None:
    method = tiny_wise("llama", settings)
    base = method.base
    prompts = [encode_prompt(base.tokenizer, fact.prompt) for fact in FACTS]
    plain = score(base, prompts)
    with leaving_no_trace(base.model):
        state = edit(method, FACTS).state
        with method.attach(state) as model, model.noting() as calls:
            score(base, prompts)
            generate(base, prompts)
        assert any(decision.opened for decision in model.decisions(calls))
    assert torch.equal(score(base, prompts), plain)


class Broken(Table):
    """A router that fails the first time."""

    failed = False

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        if not self.failed:
            self.failed = True
            raise LookupError("broken")
        return super().propose(prompts)


def test_an_error_inside_leaves_no_trace(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    plain = score(base, PROMPTS)
    with leaving_no_trace(base.model):
        with (
            pytest.raises(ZeroDivisionError),
            with_shards(base, Table()) as model,
            model.scoring(torch.tensor([1])),
        ):
            raise ZeroDivisionError
        with pytest.raises(LookupError), with_shards(base, Broken()):
            score(base, PROMPTS)
    with attached(base, {}, None):
        assert torch.equal(score(base, PROMPTS), plain)


def test_after_an_error_the_next_prompt_is_decided_anew(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with with_shards(base, Broken()) as model:
        with pytest.raises(LookupError):
            score(base, PROMPTS)
        with model.noting() as calls:
            score(base, PROMPTS)
        decisions = model.decisions(calls)
        assert [decision.memory for decision in decisions] == [OPENED.get(p, -1) for p in PROMPTS]
        with pytest.raises(ZeroDivisionError), model.scoring(torch.tensor([1])):
            raise ZeroDivisionError
        with model.noting() as calls:
            score(base, [PROMPTS[0]])
        assert model.decisions(calls)[0].opened, "the lengths of the failed scoring are forgotten"


# --- reading the forward that answers -------------------------------------------------------------


class Reader:
    """A router that reads the first block; notes the states that it was given."""

    reads = (0,)

    def __init__(self) -> None:
        self.given: list[torch.Tensor | None] = []

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        candidates = {number: [0] for number in range(len(prompts))}
        return Proposal(prompts, [Decision(-1) for _ in prompts], candidates)

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        self.given.append(states)
        return proposal.decisions


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_padded_batch_is_decided_by_the_forward_that_answers(
    tiny_base: BaseOf, family: str
) -> None:
    base, router = tiny_base(family), Reader()
    with with_shards(base, router):
        generate(base, PROMPTS)  # padded on the left, with positions
        score(base, PROMPTS, "right")
        for prompt in PROMPTS:
            score(base, [prompt])
    padded_left, padded_right, *alone = router.given
    wanted = torch.cat([states for states in alone if states is not None])
    torch.testing.assert_close(padded_left, wanted, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(padded_right, wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_pads_that_count_as_positions_are_not_read(tiny_base: BaseOf, family: str) -> None:
    base, router = tiny_base(family), Reader()
    with with_shards(base, router):
        score(base, PROMPTS, "left")  # without positions
    assert router.given == [None]


@pytest.mark.parametrize(
    "lose",
    [
        lambda model, folder: model.save_pretrained(folder),
        lambda model, folder: model.push_to_hub("a/b"),
        lambda model, _: deepcopy(model),
        lambda model, _: torch.save(model, io.BytesIO()),
        lambda model, _: model.init_continuous_batching(),
        lambda model, _: model.generate_batch([[1, 5, 9]]),
    ],
    ids=["save", "push", "copy", "pickle", "continuous batching", "generate_batch"],
)
def test_what_would_lose_edits_is_refused_while_they_are_attached(
    tiny_base: BaseOf, tmp_path: Path, lose: Callable[[Any, Path], object]
) -> None:
    base = tiny_base("llama")
    with attached(base, {}, Table()), pytest.raises(EditorError, match="edits are attached"):
        lose(base.model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert deepcopy(base.model) is not base.model


def test_a_row_of_joined_prompts_is_refused_whoever_joined_them(tiny_base: BaseOf) -> None:
    """As by a manager of continuous batching that was made without the methods of the model."""
    base = tiny_base("llama")
    ends = torch.tensor([0, *accumulate(map(len, PROMPTS))], dtype=torch.int32)
    joined = {"input_ids": torch.tensor([sum(PROMPTS, ())]), "cu_seq_lens_q": ends}
    with attached(base, {}, Table()):
        with pytest.raises(EditorError, match="joined to one row") as caught:
            base.model(**joined)
        assert "`generate`" in str(caught.value.hint)
        generate(base, PROMPTS)  # a padded batch is answered
