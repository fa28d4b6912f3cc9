"""The rows that a fact is trained on: its prompt, its variants, and prefixed forms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from editors.facts import Fact
from editors.model.base_model import Base
from editors.model.tokenization import Row, encode_pairs, require_fit
from editors.scope.unrelated_prompts import UnrelatedPrefixes, prefixed


def training_rows(
    base: Base, facts: Sequence[Fact], prefixes: UnrelatedPrefixes, count: int
) -> list[list[Row]]:
    """For each fact its prompt, its variants and ``count`` prefixed forms, each with the target.

    Raises:
        EditorError: a prompt or a variant cannot be encoded, or is too long for the model.
    """
    beginnings = prefixes.generated if count else []
    forms = [[f.prompt, *f.variants, *prefixed(f, beginnings, count)] for f in facts]
    pairs = [(text, f.target) for f, own in zip(facts, forms, strict=True) for text in own]
    encoded = iter(encode_pairs(base.tokenizer, pairs, stop=True))
    context = base.architecture.context
    found = []
    for fact, own in zip(facts, forms, strict=True):
        rows = list(islice(encoded, len(own)))
        for prompt, row in zip((fact.prompt, *fact.variants), rows, strict=False):
            require_fit(row, prompt, context)
        # A beginning of ours must not refuse a long prompt.
        found.append([row for row in rows if context is None or len(row.ids) <= context])
    return found
