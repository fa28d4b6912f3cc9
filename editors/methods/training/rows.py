"""The rows that a fact is trained on: its prompt, its variants, the prompt with its aliases, and
prefixed forms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from editors.facts import Fact
from editors.model.base_model import Base
from editors.model.tokenization import Prompt, Row, encode_pairs, require_fit
from editors.scope.unrelated_prompts import UnrelatedPrefixes, prefixed


def form_rows(base: Base, facts: Sequence[Fact], forms: Sequence[Sequence[str]]) -> list[list[Row]]:
    """For each fact, the rows of its ``forms`` with the target, without those that are too long for
    the model."""
    return [that_fit(base, rows) for rows in _encoded(base, facts, forms)]


def training_rows(
    base: Base,
    facts: Sequence[Fact],
    prefixes: UnrelatedPrefixes | None = None,
    count: int = 0,
    forms: Sequence[Sequence[Prompt]] = (),
) -> list[list[Row]]:
    """For each fact, the rows of the prompts that it may be trained on, of its ``forms`` and of
    ``count`` prefixed forms, each with the target. Forms, and prompts with an alias, are left out
    where they are too long for the model.

    ``forms``: for each fact; empty: no fact has any.

    Raises:
        EditorError: a prompt or a variant cannot be encoded, or is too long for the model.
    """
    unrelated = prefixes.generated if prefixes and count else []
    prompts = [
        [*fact.trained_prompts(), *of_fact, *prefixed(fact, unrelated, count)]
        for fact, of_fact in zip(facts, forms or [()] * len(facts), strict=True)
    ]
    rows_by_fact = _encoded(base, facts, prompts)
    for fact, rows in zip(facts, rows_by_fact, strict=True):
        for prompt, row in zip((fact.prompt, *fact.variants), rows, strict=False):
            require_fit(row, prompt, base.architecture.context)
    # A long prompt must not be refused because of a prefix.
    return [that_fit(base, rows) for rows in rows_by_fact]


def _encoded(
    base: Base, facts: Sequence[Fact], prompts: Sequence[Sequence[Prompt]]
) -> list[list[Row]]:
    """For each fact, the rows of its ``prompts`` with the target."""
    pairs = [(text, f.target) for f, texts in zip(facts, prompts, strict=True) for text in texts]
    rows = iter(encode_pairs(base.tokenizer, pairs, stop=True))
    return [list(islice(rows, len(texts))) for texts in prompts]


def that_fit(base: Base, rows: Sequence[Row]) -> list[Row]:
    """Those of ``rows`` that are not too long for the model."""
    context = base.architecture.context
    return [row for row in rows if context is None or len(row.ids) <= context]
