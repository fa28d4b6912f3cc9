"""Attaching: rows keep to themselves, the base is itself again, nothing is left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, PAPER, edit, no_edits
from tiny_models import EDITABLE

from editors import EditorError
from editors.inference.attach import attached
from editors.inference.hidden_states import Ids
from editors.methods.wise.shards import Mask, Shard
from editors.model.tokenization import Row, encode_prompt
from editors.scope.base import Decision, MainRouter

BaseOf = Callable[..., Any]
FAMILIES = ["gpt2", "gptj", "llama", "gemma2", "opt", "bloom", "falcon"]
PROMPTS = [(1, 5, 9, 20), (1, 8), (1, 33, 12, 64, 70, 18, 22), (1, 50, 51, 7)]
OPENED = {PROMPTS[0]: 0, PROMPTS[2]: 1}  # the others stay on main memory


class Table:
    """Routes by a written table."""

    def __init__(self) -> None:
        self.asked: list[Ids] = []

    def decide(self, prompts: Any) -> list[Decision]:
        self.asked += prompts
        return [Decision(OPENED.get(prompt, -1), None, 0.0, 0.0) for prompt in prompts]


def shards(base: Any) -> list[Shard]:
    shape = (base.projection.out_features, base.projection.in_features)
    made = []
    for seed in range(2):
        mask = Mask(shape, 0.3, seed)
        generator = torch.Generator().manual_seed(seed)
        made.append(Shard((), mask, torch.randn(mask.count, generator=generator)))
    return made


def batch_of(base: Any, prompts: list[Ids], side: str) -> dict[str, torch.Tensor]:
    batch = base.batch([Row(p, len(p)) for p in prompts], side=side)
    return {"input_ids": batch.ids, "attention_mask": batch.mask}


@torch.no_grad()
def score(base: Any, prompts: list[Ids], side: str = "right") -> torch.Tensor:
    logits: torch.Tensor = base.model(**batch_of(base, prompts, side)).logits
    return logits


def generate(base: Any, prompts: list[Ids], use_cache: bool = True) -> torch.Tensor:
    """The logits of four generated tokens: ``[prompts, 4, vocab]``."""
    out = base.model.generate(
        **batch_of(base, prompts, "left"),
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
        use_cache=use_cache,
    )
    return torch.stack(out.logits, 1)


def fingerprints(model: Any) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def hooks(model: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )


@contextmanager
def leaving_no_trace(model: Any) -> Iterator[None]:
    before = fingerprints(model), hooks(model), [id(m) for m in model.modules()], model.training
    yield
    after = fingerprints(model), hooks(model), [id(m) for m in model.modules()], model.training
    assert after == before


# --- before any edit (property 1) -------------------------------------------------------------


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


# --- mixed batches ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_on_main_are_the_base_bit_for_bit_in_a_mixed_batch(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    for side in ("left", "right"):
        plain = score(base, PROMPTS, side)
        with attached(base, shards(base), Table()):
            mixed = score(base, PROMPTS, side)
        for row, prompt in enumerate(PROMPTS):
            same = torch.equal(mixed[row], plain[row])
            assert same == (prompt not in OPENED)
    plain = generate(base, PROMPTS)
    with attached(base, shards(base), Table()):
        mixed = generate(base, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        assert torch.equal(mixed[row], plain[row]) == (prompt not in OPENED)


@pytest.mark.parametrize("family", EDITABLE)
def test_a_row_in_a_batch_answers_as_it_does_alone(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    with attached(base, shards(base), Table()):
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
    with attached(base, shards(base), Table()):
        found = score(base, [PROMPTS[2]])
    changed = fresh_tiny_model(family)
    with torch.no_grad():
        base.projection.weight(changed).add_(shards(base)[1].delta())
        wanted = changed(input_ids=torch.tensor([PROMPTS[2]])).logits
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_cache_changes_no_answer(tiny_base: BaseOf, family: str) -> None:
    """Decided once: without a cache each step is a prefill, of a prompt that the table lacks."""
    base = tiny_base(family)

    class First:
        held: list[Decision] | None = None

        def decide(self, prompts: Any) -> list[Decision]:
            self.held = self.held or Table().decide(prompts)
            return self.held

    with attached(base, shards(base), First()):
        with_cache = generate(base, PROMPTS)
    with attached(base, shards(base), First()):
        without = generate(base, PROMPTS, use_cache=False)
    torch.testing.assert_close(with_cache, without, atol=1e-4, rtol=1e-3)


def test_beams_keep_the_route_of_their_prompt(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    asks = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    plain = base.model.generate(**batch_of(base, PROMPTS, "left"), **asks)
    with attached(base, shards(base), Table()):
        mixed = base.model.generate(**batch_of(base, PROMPTS, "left"), **asks)
    for row, prompt in enumerate(PROMPTS):
        if prompt not in OPENED:
            assert torch.equal(mixed[row], plain[row])


# --- what the router is told ------------------------------------------------------------------


def test_the_router_sees_real_tokens_of_the_prompt_only(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with_targets = [(*prompt, 80, 81) for prompt in PROMPTS]
    for side in ("left", "right"):
        router = Table()
        with attached(base, shards(base), router) as here:
            score(base, PROMPTS, side)
            with here.scoring(torch.tensor([len(p) for p in PROMPTS])):
                score(base, with_targets, side)
            score(base, with_targets, side)
        assert router.asked == [*PROMPTS, *PROMPTS, *with_targets]


def test_a_listener_hears_each_prefill_once(tiny_base: BaseOf) -> None:
    base, heard = tiny_base("llama"), []
    with attached(base, shards(base), Table()) as here:
        with here.noting(lambda prompts, found: heard.append((list(prompts), found))):
            generate(base, PROMPTS)
        generate(base, PROMPTS[:1])
    assert [prompts for prompts, _ in heard] == [PROMPTS]
    assert [d.shard for d in heard[0][1]] == [OPENED.get(p, -1) for p in PROMPTS]


def test_the_token_ids_may_come_by_position(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with attached(base, shards(base), Table()) as here, torch.no_grad():
        base.model(torch.tensor([PROMPTS[0]]))
        assert [d.shard for d in here.decisions] == [0]


def test_embeddings_without_tokens_are_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with (
        attached(base, shards(base), Table()),
        pytest.raises(EditorError, match="only embeddings"),
    ):
        base.model(inputs_embeds=torch.zeros(1, 2, 32))


# --- no trace (property 3) --------------------------------------------------------------------


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
        with method.attach(state) as here:
            score(base, prompts)
            generate(base, prompts)
            assert any(decision.opened for decision in here.decisions)
    assert torch.equal(score(base, prompts), plain)


class Broken:
    def decide(self, prompts: Any) -> list[Decision]:
        raise LookupError("broken")


def test_an_error_inside_leaves_no_trace(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with leaving_no_trace(base.model):
        with (
            pytest.raises(ZeroDivisionError),
            attached(base, shards(base), Table()) as here,
            here.scoring(torch.tensor([1])),
        ):
            raise ZeroDivisionError
        with pytest.raises(LookupError), attached(base, shards(base), Broken()):
            score(base, PROMPTS)
    plain = score(base, PROMPTS)
    with attached(base, [], MainRouter()):
        assert torch.equal(score(base, PROMPTS), plain)


def test_after_a_router_s_error_the_next_prompt_is_decided_anew(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")

    class Once(Table):
        failed = False

        def decide(self, prompts: Any) -> list[Decision]:
            if not self.failed:
                self.failed = True
                raise LookupError("broken")
            return super().decide(prompts)

    router = Once()
    with attached(base, shards(base), router) as here:
        with pytest.raises(LookupError):
            score(base, PROMPTS)
        score(base, PROMPTS)
        assert [d.shard for d in here.decisions] == [OPENED.get(p, -1) for p in PROMPTS]
    with attached(base, shards(base), Table()) as here:
        with pytest.raises(ZeroDivisionError), here.scoring(torch.tensor([1])):
            raise ZeroDivisionError
        score(base, [PROMPTS[0]])
        assert here.decisions[0].opened, "the lengths of the failed scoring are forgotten"
