"""The rows that a fact is trained on, and what is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tiny_configs import CONTEXT, EOS
from tiny_edits import FRANCE, JAPAN, PERU, edit

from editors import PromptTooLong
from editors.methods.training.rows import training_rows
from editors.model.tokenization import Row, encode_prompt
from editors.scope.unrelated_prompts import PREFIX_LENGTHS, PREFIX_SEEDS, UnrelatedPrefixes

BaseOf = Callable[..., Any]
VARIED = replace(FRANCE, variants=("France , capital :", "the city of France is"))


def text_of(base: Any, row: Row) -> str:
    text: str = base.tokenizer.decode(list(row.ids[1 : row.prompt_length]))
    return text


def test_a_fact_has_its_prompt_its_variants_and_prefixed_forms(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    prefixes = UnrelatedPrefixes(base)
    own, other = training_rows(base, [VARIED, PERU], prefixes, 3)
    assert [len(own), len(other)] == [1 + 2 + 3, 1 + 3]
    plain = encode_prompt(base.tokenizer, FRANCE.prompt)
    assert own[0].ids[: own[0].prompt_length] == plain
    assert [text_of(base, row) for row in own[1:3]] == list(VARIED.variants)
    for row in own[3:]:
        assert text_of(base, row).endswith(FRANCE.prompt)
        assert row.prompt_length > len(plain)
    target = encode_prompt(base.tokenizer, FRANCE.target)[1:]
    assert all(row.ids[row.prompt_length :] == (*target, EOS) for row in own)
    assert training_rows(base, [PERU], prefixes, 3) == [other], "whatever it is trained beside"


def test_a_beginning_of_ours_does_not_refuse_a_long_prompt(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    words = ("the sea " * CONTEXT).split()[: CONTEXT - 4]
    long = replace(JAPAN, prompt=" ".join([*words, "Japan"]), id="")
    [rows] = training_rows(base, [long], UnrelatedPrefixes(base), 4)
    assert len(rows) == 1
    with pytest.raises(PromptTooLong, match=f"the model takes {CONTEXT}"):
        training_rows(base, [replace(long, prompt=f"a b c {long.prompt}", id="")], None, 0)


def test_a_variant_that_is_too_long_is_refused_by_its_text(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    long = replace(FRANCE, variants=("red " * CONTEXT + "is",))
    with pytest.raises(PromptTooLong, match="'red red"):
        training_rows(base, [long], UnrelatedPrefixes(base), 0)


def test_beginnings_are_the_unedited_base_s(tiny_method: Callable[..., Any]) -> None:
    """Also where they are first asked for while edits are attached."""
    method = tiny_method("ft-m")
    state = edit(method, [FRANCE, JAPAN]).state
    plain = UnrelatedPrefixes(method.base).generated
    with method.attach(state):
        attached = UnrelatedPrefixes(method.base).generated
    assert attached == plain
    assert len(plain) == len(PREFIX_SEEDS) * len(PREFIX_LENGTHS)
    assert all(map(str.startswith, plain, PREFIX_SEEDS * len(PREFIX_LENGTHS)))
