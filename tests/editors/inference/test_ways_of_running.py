"""However a model is run, it answers as one plain cached call would; with the real router.

A decision belongs to a call and rides with its cache. Each test runs ``model.generate``, or the
model by hand, in one more way, on prompts that facts claim and prompts that none does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from tiny_configs import VOCABULARY
from tiny_edits import FACTS, edit
from tiny_models import build
from transformers import DynamicCache

from editors import EditorError
from editors.model.tokenization import Ids, Row, encode_prompt

STEPS = 4
# Rotary positions, learnt positions, sliding windows.
FAMILIES = ["llama", "gpt2", pytest.param("gemma2", marks=pytest.mark.slow)]
CLAIMED = [fact.prompt for fact in FACTS]
UNCLAIMED = ["the city of Spain is", "what is the sea of Kenya ?", "Bob lives in"]
TEXTS = [text for pair in zip(CLAIMED, [*UNCLAIMED, "Ann plays the"], strict=True) for text in pair]


@dataclass
class Edited:
    """A tiny model with four facts attached, and what a plain cached call answers."""

    base: Any
    model: Any  # EditedModel

    @property
    def cache_name(self) -> str:
        """What this release of transformers calls the keyword of a cache."""
        names = inspect.signature(self.base.model.forward).parameters
        return "past_key_values" if "past_key_values" in names else "cache"

    def ids(self, text: str) -> Ids:
        return encode_prompt(self.base.tokenizer, text)

    def batch(self, prompts: Sequence[Ids]) -> dict[str, torch.Tensor]:
        batch = self.base.batch([Row.of_prompt(prompt) for prompt in prompts], side="left")
        return {"input_ids": batch.ids, "attention_mask": batch.mask}

    def generate(self, prompts: Sequence[Ids], **options: Any) -> list[list[int]]:
        """The tokens that follow each prompt."""
        inputs = self.batch(prompts)
        settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, **options}
        out: torch.Tensor = self.base.model.generate(**inputs, **settings)
        answers: list[list[int]] = out[:, inputs["input_ids"].shape[1] :].tolist()
        return answers

    def require(self, way: Callable[[], object]) -> None:
        """Skip where this release of transformers cannot run the unedited base in this way."""
        with self.base.probing():
            try:
                way()
            except (RuntimeError, ValueError) as error:
                pytest.skip(f"transformers {transformers.__version__} cannot: {error}")

    def cache(self) -> DynamicCache:
        """A new cache for the base."""
        return DynamicCache(config=self.base.model.config)

    def behind(self, first: Ids, prompt: Ids) -> None:
        """Read ``first`` by hand, and generate after ``prompt``, which begins with it."""
        cache = self.cache()
        self.by_hand(torch.tensor([first]), cache, torch.ones(1, len(first)))
        self.generate([prompt], **{self.cache_name: cache})

    def by_hand(self, ids: torch.Tensor, cache: DynamicCache, mask: torch.Tensor) -> torch.Tensor:
        """One forward behind ``cache``: the next tokens ``[rows, 1]``."""
        with torch.no_grad():
            out = self.base.model(
                input_ids=ids, attention_mask=mask, use_cache=True, **{self.cache_name: cache}
            )
        following: torch.Tensor = out.logits[:, -1:].argmax(-1)
        return following


@pytest.fixture(params=FAMILIES)
def edited(request: pytest.FixtureRequest, tiny_wise: Callable[..., Any]) -> Iterator[Edited]:
    method, state = _trained(tiny_wise, request.param)
    with method.attach(state) as model:
        yield Edited(method.base, model)


_STATES: dict[str, Any] = {}


def _trained(tiny_wise: Callable[..., Any], family: str) -> tuple[Any, Any]:
    method = tiny_wise(family)
    if family not in _STATES:
        _STATES[family] = edit(method, FACTS).state
    return method, _STATES[family]


@pytest.fixture
def prompts(edited: Edited) -> list[Ids]:
    return [edited.ids(text) for text in TEXTS]


@pytest.fixture
def plain(edited: Edited, prompts: list[Ids]) -> list[list[int]]:
    """What plain cached calls answer, one prompt at a time."""
    family = edited.base.model.config.model_type
    if family not in _PLAIN:
        _PLAIN[family] = [edited.generate([prompt])[0] for prompt in prompts]
    return _PLAIN[family]


_PLAIN: dict[str, list[list[int]]] = {}


def test_facts_claim_their_prompts_and_no_others(
    edited: Edited, prompts: list[Ids], plain: list[list[int]]
) -> None:
    """What the other tests stand on: half of the prompts are edited, and answered so."""
    with edited.model.noting() as calls:
        assert edited.generate(prompts) == plain
    decisions = edited.model.decisions(calls)
    assert [decision.opened for decision in decisions] == [text in CLAIMED for text in TEXTS]
    for text, answer in zip(TEXTS, plain, strict=True):
        for fact in FACTS:
            if fact.prompt == text:
                target = edited.base.tokenizer(fact.target, add_special_tokens=False).input_ids
                assert answer[: len(target)] == target


# --- generate -------------------------------------------------------------------------------------


def test_without_a_cache(edited: Edited, prompts: list[Ids], plain: list[list[int]]) -> None:
    assert edited.generate(prompts, use_cache=False) == plain


def test_where_the_checkpoint_says_not_to_cache(
    edited: Edited, prompts: list[Ids], plain: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edited.base.model.generation_config, "use_cache", False)
    assert edited.generate(prompts) == plain


@pytest.mark.parametrize("chunk", [1, 3])
def test_with_a_prompt_read_in_chunks(
    edited: Edited, prompts: list[Ids], plain: list[list[int]], chunk: int
) -> None:

    def answer_of(prompt: Ids) -> list[list[int]]:
        cache = {edited.cache_name: edited.cache()}
        return edited.generate([prompt], prefill_chunk_size=chunk, **cache)

    edited.require(lambda: answer_of(prompts[2]))
    assert [answer_of(prompt)[0] for prompt in prompts] == plain


def test_with_sequences_for_each_prompt(
    edited: Edited, prompts: list[Ids], plain: list[list[int]]
) -> None:
    doubled = [answer for answer in plain for _ in range(2)]
    repeated = [prompt for prompt in prompts for _ in range(2)]
    assert edited.generate(repeated) == doubled
    torch.manual_seed(3)
    sampled = edited.generate(prompts, do_sample=True, num_return_sequences=2)
    torch.manual_seed(3)
    assert sampled == edited.generate(
        prompts, do_sample=True, num_return_sequences=2, use_cache=False
    )


def test_with_beams(edited: Edited, prompts: list[Ids]) -> None:
    together = edited.generate(prompts, num_beams=3)
    assert together == [edited.generate([prompt], num_beams=3)[0] for prompt in prompts]
    assert together == edited.generate(prompts, num_beams=3, use_cache=False)
    with edited.base.probing():
        unedited = edited.generate(prompts, num_beams=3)
    for text, answer, before in zip(TEXTS, together, unedited, strict=True):
        assert (answer == before) == (text not in CLAIMED)


def test_with_tokens_guessed_from_the_prompt(
    edited: Edited, prompts: list[Ids], plain: list[list[int]]
) -> None:
    # Some releases cannot guess without a token that ends a text.
    unused = next(token for token in range(VOCABULARY) if not any(token in row for row in plain))
    options = {"prompt_lookup_num_tokens": 2, "eos_token_id": unused}
    edited.require(lambda: [edited.generate([prompt], **options) for prompt in prompts])
    assert [edited.generate([prompt], **options)[0] for prompt in prompts] == plain


def test_with_tokens_guessed_by_another_model(
    edited: Edited, prompts: list[Ids], plain: list[list[int]]
) -> None:
    assistant = build("llama")
    edited.require(
        lambda: [edited.generate([prompt], assistant_model=assistant) for prompt in prompts]
    )
    for prompt, answer in zip(prompts, plain, strict=True):
        assert edited.generate([prompt], assistant_model=assistant) == [answer]


def test_with_a_static_cache(edited: Edited, prompts: list[Ids], plain: list[list[int]]) -> None:
    for prompt, answer in zip(prompts, plain, strict=True):
        assert edited.generate([prompt], cache_implementation="static") == [answer]


def test_with_pads_that_only_their_id_tells(
    edited: Edited, prompts: list[Ids], plain: list[list[int]]
) -> None:
    """``generate`` without a mask takes the pad token for a pad; so does the router."""
    inputs = edited.batch(prompts)["input_ids"]
    pad = edited.base.tokenizer.pad_token_id
    out = edited.base.model.generate(
        inputs, max_new_tokens=STEPS, do_sample=False, eos_token_id=2, pad_token_id=pad
    )
    for row, answer in zip(out[:, inputs.shape[1] :].tolist(), plain, strict=True):
        stop = row.index(2) if 2 in row else len(row)
        assert row[:stop] == answer[:stop]


# --- caches that hold something -------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [2])
@pytest.mark.parametrize("filled_by", ["edited", "base"])
def test_behind_a_prefix_that_a_cache_holds(
    edited: Edited, prompts: list[Ids], plain: list[list[int]], prefix: int, filled_by: str
) -> None:
    edited.require(lambda: edited.behind(prompts[0][:prefix], prompts[0]))
    for prompt, answer in zip(prompts, plain, strict=True):
        cache, beginning = edited.cache(), torch.tensor([prompt])
        if filled_by == "base":
            with edited.base.probing():
                edited.by_hand(beginning[:, :prefix], cache, torch.ones(1, prefix))
        else:
            edited.by_hand(beginning[:, :prefix], cache, torch.ones(1, prefix))
        assert edited.generate([prompt], **{edited.cache_name: cache}) == [answer]


def test_a_second_turn_on_an_old_cache(edited: Edited, prompts: list[Ids]) -> None:
    """Whatever claims the first turn, the second is decided for itself, by all that is said."""
    edited.require(lambda: edited.behind(prompts[0], (*prompts[0], *prompts[2], *prompts[0])))
    claims = set()
    for first in prompts[:3]:
        for last in prompts[2:4]:
            cache = edited.cache()
            with edited.model.noting() as calls:
                [answer] = edited.generate([first], **{edited.cache_name: cache})
                whole = (*first, *answer, *last[1:])
                [expected] = edited.generate([whole])
            one, other = (edited.model.decisions([call])[0].opened for call in calls)
            claims.add((one, other))
            assert edited.generate([whole], **{edited.cache_name: cache}) == [expected]
    assert (True, False) in claims


def test_a_second_turn_by_hand(edited: Edited, prompts: list[Ids]) -> None:
    """Without ``generate``: more than one token behind a cache is a prompt that goes on."""
    edited.require(lambda: edited.behind(prompts[0], (*prompts[0], *prompts[2])))
    for first in prompts[:3]:
        for last in prompts[2:4]:
            cache = edited.cache()
            edited.by_hand(torch.tensor([first]), cache, torch.ones(1, len(first)))
            whole = (*first, *last[1:])
            ids = torch.tensor([last[1:]])
            following = edited.by_hand(ids, cache, torch.ones(1, len(whole)))
            assert following.item() == edited.generate([whole])[0][0]


def test_streams_that_are_interleaved(
    edited: Edited, prompts: list[Ids], plain: list[list[int]]
) -> None:
    caches = [edited.cache() for _ in prompts]
    following = [
        edited.by_hand(torch.tensor([prompt]), cache, torch.ones(1, len(prompt)))
        for prompt, cache in zip(prompts, caches, strict=True)
    ]
    answers = [[token.item()] for token in following]
    for step in range(1, STEPS):
        for number, (prompt, cache) in enumerate(zip(prompts, caches, strict=True)):
            mask = torch.ones(1, len(prompt) + step)
            following[number] = edited.by_hand(following[number], cache, mask)
            answers[number].append(following[number].item())
    assert answers == plain


def test_threads_that_share_a_model(
    edited: Edited, prompts: list[Ids], plain: list[list[int]]
) -> None:
    order = [number for number in range(len(prompts)) for _ in range(3)]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda number: edited.generate([prompts[number]])[0], order))
    assert answers == [plain[number] for number in order]


# --- what cannot be routed ------------------------------------------------------------------------


def test_through_a_pipeline(edited: Edited, prompts: list[Ids], plain: list[list[int]]) -> None:
    tokenizer = edited.base.tokenizer
    pipe = transformers.pipeline(
        "text-generation", model=edited.base.model, tokenizer=tokenizer, batch_size=3
    )
    options = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None}
    given = pipe(TEXTS, return_full_text=False, **options)
    texts = [answer["generated_text"].strip() for [answer] in given]
    assert texts == [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in plain]


def test_as_a_stream_of_tokens(edited: Edited, prompts: list[Ids], plain: list[list[int]]) -> None:
    class Streamer(transformers.generation.streamers.BaseStreamer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.ids: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.ids += value.flatten().tolist()

        def end(self) -> None: ...

    for prompt, expected in zip(prompts, plain, strict=True):
        streamer = Streamer()
        edited.generate([prompt], streamer=streamer)
        assert streamer.ids == [*prompt, *expected]


def test_embeddings_alone_are_refused(edited: Edited, prompts: list[Ids]) -> None:
    embeddings = edited.base.model.get_input_embeddings()(torch.tensor([prompts[0]]))
    with pytest.raises(EditorError, match="only embeddings were given"):
        edited.base.model.generate(inputs_embeds=embeddings, max_new_tokens=2)


def test_a_cache_of_unknown_tokens_is_refused_where_it_matters(
    edited: Edited, prompts: list[Ids], plain: list[list[int]]
) -> None:
    prompt, cache = prompts[0], edited.cache()
    edited.require(lambda: edited.behind(prompt[:2], prompt))
    with edited.base.probing():  # leaves no record of what it read
        edited.by_hand(torch.tensor([prompt[:2]]), cache, torch.ones(1, 2))
    with pytest.raises(EditorError, match="not known what tokens this cache holds") as error:
        edited.by_hand(torch.tensor([prompt[2:]]), cache, torch.ones(1, len(prompt)))
    assert "generate" in error.value.hint
    assert edited.generate([prompt], **{edited.cache_name: cache}) == [plain[0]]
