"""What pruning a head means (PH3 section 7.1, property 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, edit
from tiny_models import EDITABLE

from editors import EditorError
from editors.heads.head_mask import Head, HeadMask, Resolution, mean_fill
from editors.heads.path_patching import path_effects
from editors.inference.attach import attached
from editors.inference.hidden_states import last_states
from editors.model.hooks import changing_input, reading_inputs, reading_outputs
from editors.model.tokenization import Row, encode_prompt
from editors.scope.base import MAIN, Decision, MainRouter

BaseOf = Callable[..., Any]
IDS = torch.tensor([[1, 5, 9, 20, 31, 7], [1, 33, 12, 64, 70, 18]])
SOME = (Head(0, 1), Head(2, 0), Head(2, 3))


def logits(base: Any, mask: HeadMask | None = None) -> torch.Tensor:
    with torch.no_grad():
        if mask is None:
            found: torch.Tensor = base.model(input_ids=IDS).logits
            return found
        with mask.attached(base):
            return logits(base)


@pytest.mark.parametrize("family", EDITABLE)
@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_a_scaled_head_is_a_scaled_slice_of_the_weight(
    tiny_base: BaseOf, family: str, scale: float
) -> None:
    base = tiny_base(family)
    before = logits(base)
    found = logits(base, HeadMask(SOME, scale))
    baked = replace(base, model=deepcopy(base.model))
    for layer, head in SOME:
        weight = baked.architecture.block(layer).attention_out.weight(baked.model)
        weight[:, baked.architecture.head_slice(layer, head)] *= scale
    torch.testing.assert_close(found, logits(baked), atol=1e-5, rtol=1e-5)
    assert float((found - before).abs().max()) > 1e-3
    assert torch.equal(logits(base), before), "bit for bit as it was"


def test_a_factor_of_one_changes_nothing(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    assert torch.equal(logits(base, HeadMask(SOME, 1.0)), logits(base))
    assert torch.equal(logits(base, HeadMask()), logits(base))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_generation_with_a_cache_is_generation_without(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    with HeadMask(SOME).attached(base), torch.no_grad():
        said = [
            base.model.generate(
                input_ids=IDS,
                max_new_tokens=6,
                do_sample=False,
                use_cache=cached,
                eos_token_id=None,
            )
            for cached in (True, False)
        ]
    assert torch.equal(said[0], said[1])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_any_head_a_layer_s_attention_writes_its_bias(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    out = base.architecture.block(1).attention_out
    everything = HeadMask(tuple(Head(1, head) for head in range(base.architecture.n_heads)))
    written: list[torch.Tensor] = []
    with reading_outputs(base.model, {out.path: written.append}):
        logits(base, everything)
    bias = out.bias(base.model)
    wanted = torch.zeros(out.out_features) if bias is None else bias
    torch.testing.assert_close(written[0], wanted.expand_as(written[0]), atol=1e-6, rtol=0)


def test_heads_that_are_not_there_are_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    for mask, said in (
        (HeadMask((Head(9, 0),)), "layer 9 is not one of 0 to 2"),
        (HeadMask((Head(0, 4),)), "head 4 is not one of 0 to 3"),
    ):
        with pytest.raises(EditorError, match=said), mask.attached(base):
            pass
    with pytest.raises(EditorError, match="named twice"):
        HeadMask((Head(0, 1), Head(0, 1)))


# --- from the end of the prompt on ------------------------------------------------------------

ROWS = [(1, 5, 9, 20, 31, 7, 44, 12), (1, 33, 12), (1, 64, 70, 18, 22)]
ENDS = torch.tensor([5, 3, 2])  # tokens of each prompt; a target follows some


def batch_of(base: Any, side: str = "right") -> dict[str, torch.Tensor]:
    batch = base.batch([Row(ids, len(ids)) for ids in ROWS], side=side)
    return {"input_ids": batch.ids, "attention_mask": batch.mask}


@contextmanager
def by_hand(base: Any, where: torch.Tensor) -> Iterator[None]:
    """The heads of ``SOME`` write nothing at the positions ``where`` ``[rows, seq]``."""
    with ExitStack() as stack:
        for layer, head in SOME:
            path = base.architecture.block(layer).attention_out.path
            features = base.architecture.head_slice(layer, head)

            def silence(inputs: torch.Tensor, features: slice = features) -> torch.Tensor:
                changed = inputs.clone()
                flat = changed.view(-1, changed.shape[-1])
                flat[where.flatten(), features] = 0.0
                return changed

            stack.enter_context(changing_input(base.model.get_submodule(path), silence))
        yield


@torch.no_grad()
def run(base: Any, side: str = "right") -> torch.Tensor:
    found: torch.Tensor = base.model(**batch_of(base, side)).logits
    return found


@pytest.mark.parametrize("family", EDITABLE)
def test_at_the_end_only_what_follows_the_prompt_changes(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    places = torch.arange(len(ROWS[0]))
    lengths = torch.tensor([len(ids) for ids in ROWS])
    before = run(base)
    for ends in (lengths, ENDS):
        with HeadMask(SOME, at="end").attached(base) as attachment:
            if ends is lengths:
                found = run(base)
            else:
                with attachment.scoring(ends):
                    found = run(base)
        asked = (places >= ends[:, None] - 1) & (places < lengths[:, None])
        with by_hand(base, asked):
            wanted = run(base)
        for row, end in enumerate(ends.tolist()):
            last = len(ROWS[row])
            assert torch.equal(found[row, : end - 1], before[row, : end - 1])
            torch.testing.assert_close(
                found[row, end - 1 : last], wanted[row, end - 1 : last], atol=1e-5, rtol=1e-5
            )
            assert float((found[row, end - 1] - before[row, end - 1]).abs().max()) > 1e-3
    assert torch.equal(run(base), before)


def test_at_the_end_of_rows_padded_on_the_left_the_last_token_changes(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    before = run(base, "left")
    with HeadMask(SOME, at="end").attached(base):
        found = run(base, "left")
    for row, ids in enumerate(ROWS):
        real = slice(len(ROWS[0]) - len(ids), -1)
        assert torch.equal(found[row, real], before[row, real])
        assert not torch.equal(found[row, -1], before[row, -1])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bloom"])
def test_at_the_end_a_cached_answer_is_pruned_from_the_end_on(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    more = 6
    with HeadMask(SOME, at="end").attached(base), torch.no_grad():
        said = base.model.generate(
            input_ids=IDS, max_new_tokens=more, do_sample=False, eos_token_id=None
        )
    ids = IDS
    for _ in range(more):
        where = (torch.arange(ids.shape[1]) >= IDS.shape[1] - 1).expand(len(ids), -1)
        with by_hand(base, where), torch.no_grad():
            following = base.model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], 1)
    assert torch.equal(said, ids)


def test_the_end_of_a_prompt_is_not_found_in_embeddings(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with (
        HeadMask(SOME, at="end").attached(base),
        pytest.raises(EditorError, match="needs their tokens, not embeddings"),
    ):
        base.model(inputs_embeds=torch.zeros(1, 2, 32))


# --- the mean in a head's place ---------------------------------------------------------------


def read_by(base: Any, layer: int, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """For each prompt, what the layer's attention output projection reads: ``[tokens, in]``."""
    found: list[torch.Tensor] = []
    path = base.architecture.block(layer).attention_out.path
    for ids in prompts:
        with (
            reading_inputs(base.model, {path: lambda args, _: found.append(args[0].clone())}),
            torch.no_grad(),
        ):
            base.model(input_ids=torch.tensor([list(ids)]))
    return [read.view(len(ids), -1) for read, ids in zip(found, prompts, strict=True)]


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
@pytest.mark.parametrize("at", ["all", "end"])
def test_the_mean_is_over_tokens_or_over_the_ends_of_prompts(
    tiny_base: BaseOf, family: str, at: Any
) -> None:
    base = tiny_base(family)
    found = mean_fill(base, SOME, ROWS, at)
    assert set(found) == set(SOME)
    for head, mean in found.items():
        read = read_by(base, head.layer, ROWS)
        taken = torch.cat([states[-1:] if at == "end" else states for states in read])
        wanted = taken[:, base.architecture.head_slice(*head)].mean(0)
        torch.testing.assert_close(mean, wanted, atol=1e-5, rtol=1e-5)


def test_a_filled_head_hands_on_its_mean_and_in_between_a_mixture(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    head = Head(1, 2)
    fill = mean_fill(base, [head], ROWS, "all")
    part = base.architecture.head_slice(*head)
    [plain] = read_by(base, 1, [ROWS[0]])
    with HeadMask((head,), fill=fill).attached(base):
        [filled] = read_by(base, 1, [ROWS[0]])
    wanted = plain.clone()
    wanted[:, part] = fill[head]
    assert torch.equal(filled, wanted)
    for scale in (0.25, 0.7):
        with HeadMask((head,), scale, fill=fill).attached(base):
            [between] = read_by(base, 1, [ROWS[0]])
        torch.testing.assert_close(between, scale * plain + (1 - scale) * filled)
    with HeadMask((head,), 1.0, fill=fill).attached(base):
        assert torch.equal(read_by(base, 1, [ROWS[0]])[0], plain)


def test_a_filled_head_of_a_whole_forward_is_its_mean_written_by_hand(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    fill = mean_fill(base, SOME, ROWS, "all")
    with ExitStack() as stack, torch.no_grad():
        for head in SOME:
            out = base.architecture.block(head.layer).attention_out

            def put(inputs: torch.Tensor, head: Head = head) -> torch.Tensor:
                changed = inputs.clone()
                changed[..., base.architecture.head_slice(*head)] = fill[head]
                return changed

            stack.enter_context(changing_input(base.model.get_submodule(out.path), put))
        wanted = base.model(input_ids=IDS).logits
    assert torch.equal(logits(base, HeadMask(SOME, fill=fill)), wanted)


# --- beside a router --------------------------------------------------------------------------


class Looking:
    """Looks at the base in the midst of a forward, as routers do, and sends all to main memory."""

    def __init__(self, base: Any) -> None:
        self._base = base
        self.states: list[torch.Tensor] = []

    def decide(self, prompts: Any) -> list[Decision]:
        longer = [(*prompt, 9, 9, 9) for prompt in prompts]  # of another shape than the prompts
        self.states.append(last_states(self._base, longer, [0, 2]))
        return [MAIN] * len(prompts)


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("at", ["all", "end"])
def test_a_router_looks_at_the_base_without_the_mask_and_does_not_disturb_it(
    tiny_base: BaseOf, family: str, at: Any
) -> None:
    base = tiny_base(family)
    mask = HeadMask(SOME, at=at)
    plain, pruned = Looking(base), Looking(base)
    with attached(base, [], plain):
        run(base)
    with attached(base, [], pruned, mask) as here:
        found = [run(base)]
        with here.scoring(ENDS):
            found.append(run(base))
    with attached(base, [], MainRouter(), mask) as here:
        wanted = [run(base)]
        with here.scoring(ENDS):
            wanted.append(run(base))
    assert torch.equal(pruned.states[0], plain.states[0])
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert torch.equal(found[0], found[1]) == (at == "all")


def test_what_a_router_reads_is_not_taken_for_what_heads_do(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    one = base.batch([Row(ROWS[0], len(ROWS[0])), Row(ROWS[1], len(ROWS[1]))])
    other = base.batch([Row(tuple(reversed(row)), len(row)) for row in ROWS[:2]])
    tokens = torch.tensor([[5], [7]])
    means, effects = mean_fill(base, SOME, ROWS, "all"), path_effects(base, one, other, tokens)
    with attached(base, [], Looking(base)):
        assert torch.equal(path_effects(base, one, other, tokens), effects)
        for head, mean in mean_fill(base, SOME, ROWS, "all").items():
            assert torch.equal(mean, means[head])


def test_pruned_heads_change_no_decision(tiny_wise: Callable[..., Any]) -> None:
    method = tiny_wise("llama")
    base, state = method.base, edit(method, FACTS).state
    texts = [f"{start}{fact.prompt}" for fact in FACTS for start in ("", "so , ", "Ann works . ")]
    prompts = [encode_prompt(base.tokenizer, text) for text in texts]
    batch = base.batch([Row(ids, len(ids)) for ids in prompts])
    everything = tuple(Head(layer, head) for layer in range(3) for head in range(4))
    decided = []
    for mask in (HeadMask(), HeadMask(everything), HeadMask(everything, at="end")):
        pruned = replace(state, resolution=Resolution("context", mask, state.edits))
        with method.attach(pruned) as here, torch.no_grad():
            base.model(input_ids=batch.ids, attention_mask=batch.mask)
            decided.append(here.decisions)
    assert decided[0] == decided[1] == decided[2]
    assert any(decision.opened for decision in decided[0])
