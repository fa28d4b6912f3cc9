"""Heads put into a model by hand rank first, and pruning them does what it should.

A prompt says ``CITY . COUNTRY capital``. From its last token one head copies the city, wherever it
stands, and one looks up the country's capital; the louder of the two gives the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_configs import VOCABULARY
from transformers import LlamaConfig, LlamaForCausalLM

from editors.heads.head_mask import pruning_heads
from editors.heads.logit_attribution import direct_effects
from editors.heads.path_patching import path_effects
from editors.heads.pruning import Head, HeadMask
from editors.inference.edited_model import EditedModel
from editors.model.base_model import Base
from editors.model.tokenization import Row, encode_prompt

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Norway": "Oslo",
    "Egypt": "Cairo",
}
COUNTRIES, CITIES = tuple(CAPITALS), tuple(CAPITALS.values())
COUNT = len(CAPITALS)

# The residual stream: who a country or a city is, which city is the answer, and what kind a token
# is.
HIDDEN, LAYERS, HEADS = 32, 2, 4
COUNTRY, CITY, ANSWER = (slice(start, start + COUNT) for start in (0, COUNT, 2 * COUNT))
IS_COUNTRY, IS_CITY, ASKS, OTHER = range(3 * COUNT, 3 * COUNT + 4)

LOOKUP, COPY, BOTH = Head(0, 2), Head(1, 1), Head(0, 3)


def planted(tokenizer: Any, copy: float, lookup: float, copies: Head, looks_up: Head) -> Base:
    """A model whose heads ``copies`` and ``looks_up`` write as loudly as given; the rest is noise.

    No MLP does anything, and the frequencies of rotary positions are 0 but for the first.
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e30},
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        for parameter in model.model.layers.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.05)
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
        write_embeddings(model, tokenizer)
        for head in {copies, looks_up}:
            attention, features = features_of(model, head)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
                projection.weight[features] = 0.0
        attend(model, copies, IS_CITY, CITY, copy)
        attend(model, looks_up, IS_COUNTRY, COUNTRY, lookup)
    return Base.of(model, tokenizer)


def write_embeddings(model: Any, tokenizer: Any) -> None:
    """One-hot embeddings of who and what kind; a city is read off along its feature of
    ``ANSWER``."""
    embeddings, vocabulary = model.model.embed_tokens.weight, model.lm_head.weight
    embeddings.zero_()
    vocabulary.zero_()
    embeddings[:, OTHER] = 1.0
    for i, words in enumerate(CAPITALS.items()):
        country, city = tokenizer.convert_tokens_to_ids(list(words))
        embeddings[[country, city], OTHER] = 0.0
        embeddings[country, [COUNTRY.start + i, IS_COUNTRY]] = 1.0
        embeddings[city, [CITY.start + i, IS_CITY]] = 1.0
        vocabulary[city, ANSWER.start + i] = 1.0
    embeddings[tokenizer.convert_tokens_to_ids("capital"), ASKS] = 1.0


def attend(model: Any, head: Head, kind: int, who: slice, loudness: float) -> None:
    """Let ``head`` look from who asks at tokens of a kind, and write whose they are."""
    attention, features = features_of(model, head)
    still = features.start + 1  # the feature before it turns with the position
    attention.q_proj.weight[still, ASKS] = 3.0
    attention.k_proj.weight[still, kind] = 3.0
    attention.v_proj.weight[features, who] = torch.eye(COUNT)
    attention.o_proj.weight[:, features] = 0.0
    attention.o_proj.weight[ANSWER, features] = loudness * torch.eye(COUNT)


def features_of(model: Any, head: Head) -> tuple[Any, slice]:
    """Its attention, and its features there."""
    width = HIDDEN // HEADS
    features = slice(head.head * width, (head.head + 1) * width)
    return model.model.layers[head.layer].self_attn, features


@pytest.fixture
def two_heads(word_tokenizer: Callable[..., Any]) -> Callable[..., Base]:
    """``two_heads(copy, lookup)``: a model with a head for each."""
    return lambda copy, lookup: planted(word_tokenizer(), copy, lookup, COPY, LOOKUP)


def prompts(turn: int = 1, subject: int = 0) -> list[str]:
    """One a country, beside the city ``turn`` further on; ``subject``: ask another country."""
    return [
        f"{CITIES[(i + turn) % COUNT]} . {COUNTRIES[(i + subject) % COUNT]} capital"
        for i in range(COUNT)
    ]


CONTEXT = [CITIES[(i + 1) % COUNT] for i in range(COUNT)]  # what each of prompts() says
MEMORY = list(CITIES)


def answers(base: Base, *pruned: Head) -> list[str]:
    """The likeliest token after each of :func:`prompts`."""
    with pruning_heads(base, HeadMask(pruned)), torch.no_grad():
        logits = base.model(input_ids=batch(base, prompts()).ids).logits
    return list(base.tokenizer.convert_ids_to_tokens(logits[:, -1].argmax(-1).tolist()))


def batch(base: Base, texts: list[str]) -> Any:
    rows = [encode_prompt(base.tokenizer, text) for text in texts]
    return base.batch([Row.of_prompt(ids) for ids in rows])


def scores(base: Base, of: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """``[layers * heads]``: what the context's answer loses with another city in the passage, and
    memory's when another country is asked for."""
    return (
        losses(base, of, prompts(turn=3), CONTEXT),
        losses(base, of, prompts(subject=3), MEMORY),
    )


def losses(base: Base, of: Any, corrupted: list[str], cities: list[str]) -> torch.Tensor:
    tokens = torch.tensor([base.tokenizer.convert_tokens_to_ids(cities)]).T  # [rows, 1]
    model = EditedModel.unedited(base)
    lost: torch.Tensor = of(model, batch(base, prompts()), batch(base, corrupted), tokens)
    return lost.mean((2, 3)).flatten()


def top(of: torch.Tensor) -> Head:
    """The head that scores highest, by far."""
    (most, next_most), (number, _) = of.topk(2)
    assert most > 10 * next_most
    return Head(*divmod(int(number), HEADS))


@pytest.mark.parametrize("of", [path_effects, direct_effects])
@pytest.mark.parametrize(("copy", "lookup"), [(2.0, 1.0), (1.0, 2.0)])
def test_planted_heads_rank_first(
    two_heads: Callable[..., Base], of: Any, copy: float, lookup: float
) -> None:
    context, memory = scores(two_heads(copy, lookup), of)
    assert top(context) == COPY
    assert top(memory) == LOOKUP


def test_without_the_copy_head_the_model_says_what_it_knows(
    two_heads: Callable[..., Base],
) -> None:
    base = two_heads(copy=2.0, lookup=1.0)
    assert answers(base) == CONTEXT
    assert answers(base, LOOKUP) == CONTEXT
    assert answers(base, COPY) == MEMORY
    assert answers(base) == CONTEXT


def test_without_the_lookup_head_the_model_says_what_it_reads(
    two_heads: Callable[..., Base],
) -> None:
    base = two_heads(copy=1.0, lookup=2.0)
    assert answers(base) == MEMORY
    assert answers(base, COPY) == MEMORY
    assert answers(base, LOOKUP) == CONTEXT
    assert answers(base) == MEMORY


@pytest.mark.parametrize(("copy", "lookup"), [(2.0, 1.0), (1.0, 2.0)])
def test_other_heads_of_the_same_layers_move_nothing(
    two_heads: Callable[..., Base], copy: float, lookup: float
) -> None:
    base = two_heads(copy=copy, lookup=lookup)
    before = answers(base)
    for one in set(range(HEADS)) - {LOOKUP.head}:
        for other in set(range(HEADS)) - {COPY.head}:
            assert answers(base, Head(LOOKUP.layer, one), Head(COPY.layer, other)) == before


@pytest.mark.parametrize("of", [path_effects, direct_effects])
def test_a_head_that_copies_and_looks_up_tops_both_rankings(
    word_tokenizer: Callable[..., Any], of: Any
) -> None:
    """One head in both rankings, not two heads."""
    context, memory = scores(planted(word_tokenizer(), 2.0, 2.0, BOTH, BOTH), of)
    assert top(context) == top(memory) == BOTH
