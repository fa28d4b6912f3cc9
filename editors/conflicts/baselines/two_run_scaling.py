"""Scaling heads by what they wrote in an undisturbed run, and choosing which (JuICE).

Two runs go side by side over the same tokens. The first is the model as it is; in the second,
which chooses the tokens, what the first run's heads wrote is added to what the same heads write,
times a factor: heads are boosted or suppressed by what they would have said had no other head been
touched (JuICE, arXiv 2503.10996). A head is the slice that its layer's attention output projection
reads, so its bias stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from editors.errors import EditorError, UnsupportedArchitecture
from editors.heads.head_mask import attention_out, pruning_heads
from editors.heads.pruning import Head, HeadMask
from editors.inference.batching import Budget, batches
from editors.inference.edited_model import EditedModel
from editors.inference.generation import Answer, paired_answers
from editors.model.base_model import Base, is_probing
from editors.model.hooks import changing_input
from editors.model.tokenization import Row, encode_prompts


@dataclass(frozen=True, slots=True)
class TwoRun:
    """Heads to boost and to suppress, and by how many times what they write undisturbed.

    A head may be in both; then the factors add up.
    """

    boost: tuple[Head, ...]
    suppress: tuple[Head, ...]
    boost_by: float
    suppress_by: float

    def __post_init__(self) -> None:
        for heads in (self.boost, self.suppress):
            if len(set(heads)) != len(heads):
                raise EditorError("a head is named twice in one list", "name it once")

    def answers(
        self, model: EditedModel, prompts: Sequence[str], max_new_tokens: int
    ) -> list[Answer]:
        """The greedy answer of the second run to each prompt; the base is itself again after.

        Both runs are halves of one batch, at prompt and generated tokens alike, so an answer costs
        twice what it costs without.

        Raises:
            EditorError: there is no such layer or head.
            UnsupportedArchitecture: a layer has no separable heads.
        """
        with self._attached(model.base):
            return paired_answers(model, prompts, prompts, max_new_tokens, lambda _, second: second)

    @contextmanager
    def _attached(self, base: Base) -> Iterator[None]:
        """Inside ``with`` the second half of every batch is the run that is intervened in."""
        by_layer: dict[int, list[tuple[slice, float]]] = {}
        for heads, factor in ((self.boost, self.boost_by), (self.suppress, -self.suppress_by)):
            for layer, head in heads:
                features = base.architecture.head_slice(layer, head)
                by_layer.setdefault(layer, []).append((features, factor))

        def adding(terms: list[tuple[slice, float]]) -> Callable[[torch.Tensor], torch.Tensor]:
            def added(inputs: torch.Tensor) -> torch.Tensor:
                if is_probing():  # a router's rows are no two runs
                    return inputs
                changed = inputs.clone()  # [2 * rows, seq, in]
                first, second = changed.chunk(2)
                for features, factor in terms:
                    second[..., features] += factor * first[..., features]
                return changed

            return added

        with ExitStack() as stack:
            for layer, terms in by_layer.items():
                module = base.model.get_submodule(attention_out(base, layer).path)
                stack.enter_context(changing_input(module, adding(terms)))
            yield


def head_effects(
    base: Base, prompts: Sequence[str], tokens: torch.Tensor, factors: Sequence[float]
) -> torch.Tensor:
    """float32 ``[factors, layers, heads, rows]``: how much likelier a scaled head makes a token.

    The change of the probability of ``tokens[row]`` (int64 ``[rows]``) after ``prompts[row]`` when
    ``factor`` times what one head writes is added to it at all positions, in a single run (JuICE
    takes the factors 1, 3, 5, 10, 30 and -1, -2, -5; -1 prunes). Layers without separable heads
    have effect 0.

    Raises:
        EditorError: there are not as many tokens as prompts.
        UnsupportedArchitecture: no block has separable heads.
    """
    if len(tokens) != len(prompts):
        raise EditorError(
            f"{len(prompts)} prompts cannot be scored by {len(tokens)} tokens", "give one for each"
        )
    blocks, count = base.architecture.blocks, base.architecture.n_heads
    layers = [block.index for block in blocks if block.attention_out]
    if not layers:
        raise UnsupportedArchitecture("no block has attention heads that could be scaled")
    effects = torch.zeros(len(factors), len(blocks), count, len(prompts))
    encoded = encode_prompts(base.tokenizer, prompts)
    for part in batches([len(ids) for ids in encoded], Budget(pads=0)):
        ids = base.batch([Row.of_prompt(encoded[i]) for i in part]).ids
        plain = _probabilities(base, ids, tokens[part])
        for i, factor in enumerate(factors):
            for layer in layers:
                for head in range(count):
                    with pruning_heads(base, HeadMask((Head(layer, head),), 1 + factor)):
                        scaled = _probabilities(base, ids, tokens[part])
                    effects[i, layer, head, part] = scaled - plain
    return effects


def select(
    effects_by_kind: Sequence[torch.Tensor], factors: Sequence[float], count: int
) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
    """The heads to boost and those to suppress, up to ``count`` of each, best first (JuICE).

    ``effects_by_kind``: one ``[factors, layers, heads, rows]`` of :func:`head_effects` for each
    kind of prompt. A head's score on a kind is its mean effect over rows and the positive factors
    (to boost) or the negative ones (to suppress). Only heads with a positive score on every kind
    are kept, in the order of their summed scores; there are none where no factor has that sign.
    """
    given = torch.tensor(factors)
    return _best(effects_by_kind, given > 0, count), _best(effects_by_kind, given < 0, count)


def _best(
    effects_by_kind: Sequence[torch.Tensor], chosen: torch.Tensor, count: int
) -> tuple[Head, ...]:
    scores = torch.stack([effects[chosen].mean((0, 3)) for effects in effects_by_kind])
    kept = (scores > 0).all(0).nonzero().tolist()  # scores: [kinds, layers, heads]
    total = scores.sum(0)
    kept.sort(key=lambda place: -float(total[tuple(place)]))
    return tuple(Head(*place) for place in kept[:count])


@torch.inference_mode()
def _probabilities(base: Base, ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """float32 ``[rows]``, in main memory: of each row's token, after its prompt ``[rows, seq]``."""
    # Only the last token's state goes on to the vocabulary.
    with changing_input(base.model.get_output_embeddings(), lambda states: states[:, -1:]):
        logits = base.model(input_ids=ids, use_cache=False).logits[:, -1]
    found: torch.Tensor = logits.float().softmax(-1).cpu().gather(1, tokens.cpu()[:, None])[:, 0]
    return found
