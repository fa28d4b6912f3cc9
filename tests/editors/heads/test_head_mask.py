"""What pruning a head means: a scaled slice, at which tokens, towards what, beside a router."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from pruned_heads import pruned
from tiny_configs import EDITABLE
from tiny_edits import FACTS, edit

from editors import EditorError
from editors.heads.head_mask import mean_fill, pruning_heads
from editors.heads.path_patching import path_effects
from editors.heads.pruning import Head, HeadMask, HeadPruning
from editors.inference.decisions import UNCLAIMED, Decision, Proposal
from editors.inference.edited_model import EditedModel, attached
from editors.inference.generation import answers
from editors.inference.hidden_states import last_token_states
from editors.model.hooks import changing_input, reading_inputs, reading_outputs
from editors.model.tokenization import Row

BaseOf = Callable[..., Any]
IDS = torch.tensor([[1, 5, 9, 20, 31, 7], [1, 33, 12, 64, 70, 18]])
SOME = (Head(0, 1), Head(2, 0), Head(2, 3))


def logits(base: Any, mask: HeadMask | None = None) -> torch.Tensor:
    with torch.no_grad(), nullcontext() if mask is None else pruning_heads(base, mask):
        output: torch.Tensor = base.model(input_ids=IDS).logits
        return output


@pytest.mark.parametrize("family", EDITABLE)
@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_a_scaled_head_is_a_scaled_slice_of_the_weight(
    tiny_base: BaseOf, family: str, scale: float
) -> None:
    base = tiny_base(family)
    before = logits(base)
    after = logits(base, HeadMask(SOME, scale))
    baked = replace(base, model=deepcopy(base.model))
    for layer, head in SOME:
        weight = baked.architecture.block(layer).attention_out.weight(baked.model)
        weight[:, baked.architecture.head_slice(layer, head)] *= scale
    torch.testing.assert_close(after, logits(baked), atol=1e-5, rtol=1e-5)
    assert float((after - before).abs().max()) > 1e-3
    assert torch.equal(logits(base), before), "bit for bit as it was"


def test_a_factor_of_one_changes_nothing(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    assert torch.equal(logits(base, HeadMask(SOME, 1.0)), logits(base))
    assert torch.equal(logits(base, HeadMask()), logits(base))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_generation_with_a_cache_is_generation_without(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    with pruned(base, HeadMask(SOME)), torch.no_grad():
        cached, whole = (
            base.model.generate(
                input_ids=IDS,
                max_new_tokens=6,
                do_sample=False,
                use_cache=use_cache,
                eos_token_id=None,
            )
            for use_cache in (True, False)
        )
    assert torch.equal(cached, whole)


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
    for mask, message in (
        (HeadMask((Head(9, 0),)), "layer 9 is not one of 0 to 2"),
        (HeadMask((Head(0, 4),)), "head 4 is not one of 0 to 3"),
    ):
        with pytest.raises(EditorError, match=message), pruning_heads(base, mask):
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
    output: torch.Tensor = base.model(**batch_of(base, side)).logits
    return output


@pytest.mark.parametrize("family", EDITABLE)
def test_at_the_end_only_what_follows_the_prompt_changes(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    columns = torch.arange(len(ROWS[0]))
    lengths = torch.tensor([len(ids) for ids in ROWS])
    before = run(base)
    for ends in (lengths, ENDS):
        with (
            pruned(base, HeadMask(SOME, at="end")) as model,
            nullcontext() if ends is lengths else model.scoring(ends),
        ):
            after = run(base)
        answering = (columns >= ends[:, None] - 1) & (columns < lengths[:, None])
        with by_hand(base, answering):
            wanted = run(base)
        for row, end in enumerate(ends.tolist()):
            last = len(ROWS[row])
            assert torch.equal(after[row, : end - 1], before[row, : end - 1])
            torch.testing.assert_close(
                after[row, end - 1 : last], wanted[row, end - 1 : last], atol=1e-5, rtol=1e-5
            )
            assert float((after[row, end - 1] - before[row, end - 1]).abs().max()) > 1e-3
    assert torch.equal(run(base), before)


def test_at_the_end_of_rows_padded_on_the_left_the_last_token_changes(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    before = run(base, "left")
    with pruned(base, HeadMask(SOME, at="end")):
        after = run(base, "left")
    for row, ids in enumerate(ROWS):
        real = slice(len(ROWS[0]) - len(ids), -1)
        assert torch.equal(after[row, real], before[row, real])
        assert not torch.equal(after[row, -1], before[row, -1])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bloom"])
def test_at_the_end_a_cached_answer_is_pruned_from_the_end_on(
    tiny_base: BaseOf, family: str
) -> None:
    base = tiny_base(family)
    more = 6
    with pruned(base, HeadMask(SOME, at="end")), torch.no_grad():
        generated = base.model.generate(
            input_ids=IDS, max_new_tokens=more, do_sample=False, eos_token_id=None
        )
    ids = IDS
    for _ in range(more):
        where = (torch.arange(ids.shape[1]) >= IDS.shape[1] - 1).expand(len(ids), -1)
        with by_hand(base, where), torch.no_grad():
            following = base.model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], 1)
    assert torch.equal(generated, ids)


def test_embeddings_do_not_show_where_a_prompt_ends(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    with (
        pruned(base, HeadMask(SOME, at="end")),
        pytest.raises(EditorError, match="only embeddings were given"),
    ):
        base.model(inputs_embeds=torch.zeros(1, 2, 32))


# --- the mean instead of what a head writes ---------------------------------------------------


def read_by(base: Any, layer: int, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """For each prompt, what the layer's attention output projection reads: ``[tokens, in]``."""
    inputs: list[torch.Tensor] = []
    path = base.architecture.block(layer).attention_out.path
    for ids in prompts:
        with (
            reading_inputs(base.model, {path: lambda args, _: inputs.append(args[0].clone())}),
            torch.no_grad(),
        ):
            base.model(input_ids=torch.tensor([list(ids)]))
    return [read.view(len(ids), -1) for read, ids in zip(inputs, prompts, strict=True)]


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
@pytest.mark.parametrize("at", ["all", "end"])
def test_the_mean_is_over_tokens_or_over_the_ends_of_prompts(
    tiny_base: BaseOf, family: str, at: Any
) -> None:
    base = tiny_base(family)
    means = mean_fill(base, SOME, ROWS, at)
    assert set(means) == set(SOME)
    for head, mean in means.items():
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
    with pruning_heads(base, HeadMask((head,), fill=fill)):
        [filled] = read_by(base, 1, [ROWS[0]])
    wanted = plain.clone()
    wanted[:, part] = fill[head]
    assert torch.equal(filled, wanted)
    for scale in (0.25, 0.7):
        with pruning_heads(base, HeadMask((head,), scale, fill=fill)):
            [between] = read_by(base, 1, [ROWS[0]])
        torch.testing.assert_close(between, scale * plain + (1 - scale) * filled)
    with pruning_heads(base, HeadMask((head,), 1.0, fill=fill)):
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
    """Runs the base in the midst of a forward, as routers do, and claims no prompt."""

    reads: tuple[int, ...] = ()

    def __init__(self, base: Any) -> None:
        self._base = base
        self.states: list[torch.Tensor] = []

    def propose(self, prompts: Sequence[tuple[int, ...]]) -> Proposal:
        undecided = dict.fromkeys(range(len(prompts)), (0,))
        return Proposal(prompts, [UNCLAIMED] * len(prompts), undecided)

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        longer = [(*prompt, 9, 9, 9) for prompt in proposal.prompts]  # of another shape
        self.states.append(last_token_states(self._base, longer, [0, 2]))
        return proposal.decisions


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("at", ["all", "end"])
def test_a_router_looks_at_the_base_without_the_mask_and_does_not_disturb_it(
    tiny_base: BaseOf, family: str, at: Any
) -> None:
    base = tiny_base(family)
    mask = HeadMask(SOME, at=at)
    plain, masked = Looking(base), Looking(base)
    with attached(base, {}, plain):
        run(base)
    with pruning_heads(base, mask), attached(base, {}, masked, heads_pruned=True) as model:
        routed = [run(base)]
        with model.scoring(ENDS):
            routed.append(run(base))
    with pruned(base, mask) as model:
        unrouted = [run(base)]
        with model.scoring(ENDS):
            unrouted.append(run(base))
    assert torch.equal(masked.states[0], plain.states[0])
    assert all(torch.equal(one, other) for one, other in zip(routed, unrouted, strict=True))
    assert torch.equal(routed[0], routed[1]) == (at == "all")


def test_what_a_router_reads_is_not_taken_for_what_heads_do(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    original = base.batch([Row.of_prompt(row) for row in ROWS[:2]])
    corrupted = base.batch([Row.of_prompt(tuple(reversed(row))) for row in ROWS[:2]])
    tokens = torch.tensor([[5], [7]])
    means = mean_fill(base, SOME, ROWS, "all")
    effects = path_effects(EditedModel.unedited(base), original, corrupted, tokens)
    looking = Looking(base)
    with attached(base, {}, looking) as model:
        assert torch.equal(path_effects(model, original, corrupted, tokens), effects)
        for head, mean in mean_fill(base, SOME, ROWS, "all").items():
            assert torch.equal(mean, means[head])
    assert len(looking.states) >= 2 + len(ROWS), "or the test says nothing"


@pytest.mark.parametrize("prefer", ["memory", "context"])
@pytest.mark.parametrize("name", ["wise", "in-context"])
def test_pruned_heads_change_no_decision(
    tiny_method: Callable[..., Any], name: str, prefer: Any
) -> None:
    method = tiny_method(name)
    state = edit(method, FACTS).state
    prompts = [f"{start}{f.prompt}" for f in FACTS for start in ("", "so , ", "Ann works . ")]
    everything = tuple(Head(layer, head) for layer in range(3) for head in range(4))
    answers_by_mask = []
    for mask in (HeadMask(), HeadMask(everything), HeadMask(everything, at="end")):
        with method.attach(replace(state, pruning=HeadPruning(prefer, mask, state.edits))) as model:
            answers_by_mask.append(answers(model, prompts, 3))
    whole, *masked = ([answer.decision for answer in each] for each in answers_by_mask)
    for decisions in masked:
        for decision, wanted in zip(decisions, whole, strict=True):
            assert decision == replace(wanted, score=pytest.approx(wanted.score, abs=1e-5))
    assert any(decision.opened for decision in whole)
    texts = [[answer.text for answer in each] for each in answers_by_mask]
    assert texts[0] != texts[1], "heads are pruned"
