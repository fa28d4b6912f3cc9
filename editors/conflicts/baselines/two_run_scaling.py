"""JuICE (arXiv 2503.10996): scaling heads by their outputs in an undisturbed run, and choosing
them.

Two runs over the same tokens go side by side. The first run is the plain model. In the second run,
which chooses the tokens, each chosen head gets a multiple of its output in the first run added. So
heads are boosted or suppressed independently of each other. The output of a head is a slice of the
input of the attention output projection, whose bias does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial

import torch

from editors.errors import UnsupportedArchitecture
from editors.heads.head_mask import attention_out, pruning_heads
from editors.heads.pruning import Head, HeadMask
from editors.inference.batching import Budget, batches
from editors.inference.edited_model import EditedModel
from editors.inference.generation import Answer, paired_answers
from editors.inference.next_tokens import probabilities_of
from editors.model.base_model import Base, is_probing
from editors.model.hooks import changing_input
from editors.model.tokenization import Row, encode_prompts


def two_run_answers(
    model: EditedModel,
    prompts: Sequence[str],
    max_new_tokens: int,
    scaled: Iterable[tuple[Head, float]],
) -> list[Answer]:
    """The greedy answer of the second run to each prompt.

    ``scaled``: heads, each with the factor on its undisturbed output: above 0 to boost it, below 0
    to suppress it. The factors of a head that is named several times add up. Heads are scaled at
    all tokens of prompt and answer. The two runs are the halves of one batch, so an answer takes
    twice the computation.

    Raises:
        EditorError: there is no such layer or head.
        UnsupportedArchitecture: a layer has no separable heads.
    """
    base = model.base
    by_layer: dict[int, list[tuple[slice, float]]] = {}
    for (layer, head), factor in scaled:
        features = base.architecture.head_slice(layer, head)
        by_layer.setdefault(layer, []).append((features, factor))
    with ExitStack() as stack:
        for layer, terms in by_layer.items():
            module = base.model.get_submodule(attention_out(base, layer).path)
            stack.enter_context(changing_input(module, partial(_scaled, terms)))
        return paired_answers(model, prompts, prompts, max_new_tokens, lambda _, second: second)


def _scaled(terms: Sequence[tuple[slice, float]], inputs: torch.Tensor) -> torch.Tensor:
    """``inputs`` ``[2 * rows, seq, in]`` with multiples of the first run's added to the second's.

    ``terms``: the features of a head, and the factor on them.
    """
    if is_probing():  # the rows of a router are not two runs
        return inputs
    changed = inputs.clone()
    first, second = changed.chunk(2)
    for features, factor in terms:
        second[..., features] += factor * first[..., features]
    return changed


def head_effects(
    base: Base, prompts: Sequence[str], tokens: torch.Tensor, factors: Sequence[float]
) -> torch.Tensor:
    """float32 ``[factors, layers, heads, rows]``: the effect of scaling a head on a probability.

    The effect is the change of the probability of ``tokens[row]`` (int64 ``[rows]``) after
    ``prompts[row]`` when ``factor`` times the output of the head is added to that output at all
    positions, in a single run. JuICE uses the factors 1, 3, 5, 10, 30 and -1, -2, -5; -1 prunes
    the head. Layers without separable heads have effect 0.

    Raises:
        UnsupportedArchitecture: no block has separable heads.
    """
    blocks, count = base.architecture.blocks, base.architecture.n_heads
    layers = [block.index for block in blocks if block.attention_out]
    if not layers:
        raise UnsupportedArchitecture("no block has attention heads that could be scaled")
    effects = torch.zeros(len(factors), len(blocks), count, len(prompts))
    encoded = encode_prompts(base.tokenizer, prompts)
    for members in batches([len(ids) for ids in encoded], Budget(pads=0)):
        ids = base.batch([Row.of_prompt(encoded[i]) for i in members]).ids
        plain = _probabilities(base, ids, tokens[members])
        for i, factor in enumerate(factors):
            for layer in layers:
                for head in range(count):
                    with pruning_heads(base, HeadMask((Head(layer, head),), 1 + factor)):
                        scaled = _probabilities(base, ids, tokens[members])
                    effects[i, layer, head, members] = scaled - plain
    return effects


def select(
    effects_by_kind: Sequence[torch.Tensor], factors: Sequence[float], count: int
) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
    """The heads to boost and the heads to suppress, up to ``count`` of each, best first (JuICE).

    ``effects_by_kind``: for each kind of prompt, the result of :func:`head_effects` for
    ``factors``, ``[factors, layers, heads, rows]``. The score of a head on a kind is its mean
    effect over rows and over the positive factors (to boost) or the negative factors (to suppress).
    Only heads with a positive score on every kind are chosen, in the order of their summed scores.
    Without a factor of that sign, no head is chosen.
    """
    values = torch.tensor(factors)
    boost, suppress = (_best(effects_by_kind, c, count) for c in (values > 0, values < 0))
    return boost, suppress


def _best(
    effects_by_kind: Sequence[torch.Tensor], chosen: torch.Tensor, count: int
) -> tuple[Head, ...]:
    scores = torch.stack([effects[chosen].mean((0, 3)) for effects in effects_by_kind])
    positive = (scores > 0).all(0).nonzero().tolist()  # scores: [kinds, layers, heads]
    total = scores.sum(0)
    positive.sort(key=lambda position: -float(total[tuple(position)]))
    return tuple(Head(*position) for position in positive[:count])


@torch.inference_mode()
def _probabilities(base: Base, ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """float32 ``[rows]``, on the CPU: the probability of each row's token (``tokens``, int64
    ``[rows]``) after its prompt in ``ids``, int64 ``[rows, seq]``."""
    logits = base.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
    return probabilities_of(logits, tokens)
