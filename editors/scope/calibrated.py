"""The calibration of a signal for a base: made once, or found where it was made before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Protocol

from editors.model.base_model import Base
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.base import ScopeSignal, Tensors
from editors.scope.phrasings import Phrasings
from editors.scope.unrelated_prompts import UnrelatedPrefixes

VERSION = 1  # of how signals are calibrated; a change makes what was saved useless


class ByteCache(Protocol):
    """Bytes that are kept under a key of lower-case hexadecimal digits."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, payload: bytes) -> None: ...


def calibration_of(
    signal: type[ScopeSignal],
    base: Base,
    phrasings: Sequence[Phrasings],
    prefixes: UnrelatedPrefixes,
    settings: Mapping[str, float],
    cache: ByteCache,
) -> Tensors:
    """What ``signal`` has to know of ``base``, taken from ``cache`` if it is there."""
    groups = [[group.subject, *group.prompts] for group in phrasings]
    recipe = [VERSION, base.fingerprint(), base.layer, signal.name, dict(settings), groups]
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    saved = cache.get(key)
    if saved is not None:
        return from_bytes(saved)
    made = signal.calibrate(base, phrasings, prefixes, settings)
    cache.put(key, to_bytes(made))
    return made
