"""Two runs side by side, and the heads that are worth it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from pruned_heads import pruned
from tiny_models import quick_first

from editors import EditorError
from editors.conflicts.baselines.two_run_scaling import head_effects, select, two_run_answers
from editors.heads.head_mask import pruning_heads
from editors.heads.pruning import Head, HeadMask
from editors.inference.decisions import UNCLAIMED, Decision, Proposal
from editors.inference.edited_model import EditedModel, attached
from editors.inference.generation import answers
from editors.inference.hidden_states import last_token_states
from editors.model.hooks import changing_input, reading_inputs
from editors.model.tokenization import encode_prompt

BaseOf = Callable[..., Any]
FAMILIES = quick_first(["llama", "gpt2", "gpt_neox", "gemma2"])
PROMPTS = [
    "the capital of France is",
    "Rome is a city in Peru . Ann lives in",
    "the river of Spain is",
    "who wrote",
]
TOKENS = torch.tensor([41, 7, 60, 22])
LENGTH = 8
BOOST, SUPPRESS = (Head(0, 1), Head(2, 0)), (Head(1, 3), Head(2, 0))


def logits(base: Any, prompt: str = PROMPTS[1]) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.tensor([encode_prompt(base.tokenizer, prompt)])
        output: torch.Tensor = base.model(ids).logits
        return output


def scaled(
    boost: Sequence[Head], suppress: Sequence[Head], boost_by: float, suppress_by: float
) -> list[tuple[Head, float]]:
    return [(head, boost_by) for head in boost] + [(head, -suppress_by) for head in suppress]


def token_by_token(base: Any, terms: Sequence[tuple[Head, float]], prompt: str) -> str:
    """The answer without a cache or a batch: a whole plain run before every whole second one."""
    blocks = base.architecture.blocks
    outs = {block.index: block.attention_out.path for block in blocks}
    undisturbed: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda args, _: undisturbed.update({layer: args[0].clone()})

    def add(layer: int) -> Any:
        def added(inputs: torch.Tensor) -> torch.Tensor:
            inputs = inputs.clone()
            for head, factor in terms:
                if head.layer == layer:
                    part = base.architecture.head_slice(*head)
                    inputs[..., part] += factor * undisturbed[layer][..., part]
            return inputs

        return added

    answer: list[int] = []
    while len(answer) < LENGTH and base.tokenizer.eos_token_id not in answer:
        ids = torch.tensor([[*encode_prompt(base.tokenizer, prompt), *answer]])
        with torch.no_grad(), ExitStack() as stack:
            with reading_inputs(base.model, {path: keep(layer) for layer, path in outs.items()}):
                base.model(ids)
            for layer, path in outs.items():
                stack.enter_context(changing_input(base.model.get_submodule(path), add(layer)))
            answer.append(int(base.model(ids).logits[0, -1].argmax()))
    return base.tokenizer.decode(answer, skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_the_one_worked_out_token_by_token(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    before = logits(base)
    heads = scaled(BOOST, SUPPRESS, 3.0, 1.5)
    model = EditedModel.unedited(base)
    texts = [answer.text for answer in two_run_answers(model, PROMPTS, LENGTH, heads)]
    assert texts == [token_by_token(base, heads, prompt) for prompt in PROMPTS]
    assert texts != [answer.text for answer in answers(model, PROMPTS, LENGTH)]
    assert torch.equal(logits(base), before), "bit for bit as it was"


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_of_nothing_change_nothing(tiny_base: BaseOf, family: str) -> None:
    model = EditedModel.unedited(tiny_base(family))
    plain = answers(model, PROMPTS, LENGTH)
    nothing = scaled(BOOST, SUPPRESS, 0.0, 0.0)
    # In both lists the factors add up.
    for heads in (nothing, [], scaled(BOOST, BOOST, 2.0, 2.0)):
        assert two_run_answers(model, PROMPTS, LENGTH, heads) == plain


@pytest.mark.parametrize("family", FAMILIES)
def test_before_any_change_a_head_says_the_same_in_both_runs(
    tiny_base: BaseOf, family: str
) -> None:
    """So in the first layer taking away the first run's output once is pruning."""
    base = tiny_base(family)
    model = EditedModel.unedited(base)
    plain, differs = answers(model, PROMPTS, LENGTH), False
    for head in (Head(0, number) for number in range(base.architecture.n_heads)):
        with pruned(base, HeadMask((head,))) as headless:
            without = answers(headless, PROMPTS, LENGTH)
        assert two_run_answers(model, PROMPTS, LENGTH, [(head, -1.0)]) == without
        differs = differs or without != plain
    assert differs, "or the test says nothing"


def test_a_router_s_look_at_the_base_is_undisturbed(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    seen: list[torch.Tensor] = []

    class Looking:
        reads: tuple[int, ...] = ()

        def propose(self, prompts: Sequence[tuple[int, ...]]) -> Proposal:
            undecided = dict.fromkeys(range(len(prompts)), (0,))
            return Proposal(prompts, [UNCLAIMED] * len(prompts), undecided)

        def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
            # An odd number of rows, which are no two runs.
            rows = [*proposal.prompts, proposal.prompts[0]]
            seen.append(last_token_states(base, rows, [2]))
            return proposal.decisions

    heads, prompts = scaled(BOOST, SUPPRESS, 3.0, 1.5), PROMPTS[:1]
    ids = encode_prompt(base.tokenizer, prompts[0])
    [wanted] = two_run_answers(EditedModel.unedited(base), prompts, LENGTH, heads)
    with attached(base, {}, Looking()) as model:
        [answer] = two_run_answers(model, prompts, LENGTH, heads)
    assert answer.text == wanted.text
    (states,) = seen
    torch.testing.assert_close(states, last_token_states(base, [ids], [2]).expand_as(states))


def test_heads_that_are_not_there_are_refused(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    with pytest.raises(EditorError, match="layer 9 is not one of 0 to 2"):
        two_run_answers(model, PROMPTS, LENGTH, [(Head(9, 0), 1.0)])


# --- which heads ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_effect_is_the_change_of_a_probability(tiny_base: BaseOf, family: str) -> None:
    base = tiny_base(family)
    before = logits(base)
    factors = [-1.0, 0.0, 3.0]
    effects = head_effects(base, PROMPTS, TOKENS, factors)
    assert effects.shape == (3, 3, 4, len(PROMPTS))
    assert effects.dtype == torch.float32
    assert torch.equal(effects[1], torch.zeros_like(effects[1]))
    assert torch.equal(logits(base), before), "bit for bit as it was"

    def probability(row: int) -> torch.Tensor:
        return logits(base, PROMPTS[row])[0, -1].softmax(-1)[TOKENS[row]]

    for i, layer, head in ((0, 0, 1), (0, 2, 3), (2, 1, 0)):
        for row in range(len(PROMPTS)):
            with pruning_heads(base, HeadMask((Head(layer, head),), 1 + factors[i])):
                scaled = probability(row)
            wanted = scaled - probability(row)
            torch.testing.assert_close(effects[i, layer, head, row], wanted, atol=1e-6, rtol=1e-4)
    assert float(effects.abs().max()) > 1e-3


def test_the_heads_kept_are_good_on_every_kind() -> None:
    factors = [1.0, 3.0, 0.0, -1.0]
    one, other = torch.zeros(4, 2, 2, 1), torch.zeros(4, 2, 2, 3)
    # Boosting: (0, 0) is good on both, (0, 1) better on both, (1, 0) best on one and bad on one.
    one[:2, 0, 0], other[:2, 0, 0] = 0.1, 0.1
    one[:2, 0, 1], other[:2, 0, 1] = torch.tensor([-0.1, 0.7])[:, None], 0.1
    one[:2, 1, 0], other[:2, 1, 0] = 0.9, -0.01
    # A factor of 0 says nothing; suppressing, (1, 1) is good for the mean row, and (0, 0) too.
    one[2], other[2] = 1.0, 1.0
    one[3, 1, 1], other[3, 1, 1] = 0.2, torch.tensor([0.9, -0.2, -0.1])
    one[3, 0, 0], other[3, 0, 0] = 0.1, 0.1
    boost, suppress = select([one, other], factors, 5)
    assert boost == (Head(0, 1), Head(0, 0))
    assert suppress == (Head(1, 1), Head(0, 0))
    assert select([one, other], factors, 1) == ((Head(0, 1),), (Head(1, 1),))
    assert select([one], factors, 1) == ((Head(1, 0),), (Head(1, 1),))
    assert select([one[:3], other[:3]], factors[:3], 5) == ((Head(0, 1), Head(0, 0)), ())
