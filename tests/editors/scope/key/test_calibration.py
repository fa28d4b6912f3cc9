"""The calibration of a signal: fitted once for a base, kept as tensors, found again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import CountingCache, no_edits, phrasings

from editors.errors import StateMismatch
from editors.scope.corpus import Corpus
from editors.scope.fact_scope import FactScope
from editors.scope.key.calibration import Calibration, key_layers
from editors.scope.settings import ScopeSettings

BaseOf = Callable[..., Any]
SETTINGS: dict[str, Any] = {"rank": 8, "false_open": 0.1}


def test_the_calibration_of_another_release_is_refused(tiny_wise: Callable[..., Any]) -> None:
    tensors = no_edits(tiny_wise("llama")).payload.scope.calibration
    for name in tensors:
        with pytest.raises(StateMismatch, match=re.escape(f"lacks {name!r}")):
            Calibration({key: t for key, t in tensors.items() if key != name})


def test_keys_are_read_below_the_edited_block(tiny_base: BaseOf) -> None:
    """A forward is then decided on before it gets there. The first block has nothing below it."""
    base = tiny_base("llama")
    for layer in range(len(base.architecture.blocks)):
        layers = key_layers(replace(base, layer=layer))
        assert layers == sorted(set(layers))
        assert 0 <= layers[0] <= layers[-1] == max(layer - 1, 0)


def calibrated(base: Any, cache: Any, groups: Any = None, **changes: Any) -> Any:
    scope = FactScope(base, ScopeSettings(**{**SETTINGS, **changes}))
    return scope.start(Corpus(phrasings() if groups is None else groups), cache).calibration


def test_what_was_calibrated_before_is_found_again(tiny_base: BaseOf) -> None:
    base, cache = tiny_base("llama"), CountingCache()
    one = calibrated(base, cache)
    assert (cache.hits, len(cache.entries)) == (0, 1)
    two = calibrated(base, cache)
    assert (cache.hits, len(cache.entries)) == (1, 1)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_base_block_setting_or_text_is_another_calibration(tiny_base: BaseOf) -> None:
    base, cache = tiny_base("llama"), CountingCache()
    calibrated(base, cache)
    calibrated(tiny_base("mistral"), cache)
    calibrated(replace(base, layer=0), cache)
    calibrated(base, cache, rank=4)
    calibrated(base, cache, false_open=0.2)
    calibrated(base, cache, phrasings()[:-1])
    assert (cache.hits, len(cache.entries)) == (0, 6)
