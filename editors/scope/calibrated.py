"""The calibration of a signal for a base, computed once and then read from a cache."""

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

VERSION = 1  # of the calibration of signals; with another version, saved calibrations are not read


class ByteCache(Protocol):
    """Stores bytes under keys, which are lower-case hexadecimal digits. ``get`` returns None for an
    unknown key."""

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
    """The calibration of ``signal`` for ``base``, from ``cache`` if it holds it.

    Arguments and errors are those of :meth:`ScopeSignal.calibrate`.
    """
    groups = [[group.subject, *group.prompts] for group in phrasings]
    recipe = [VERSION, base.fingerprint(), base.layer, signal.name, dict(settings), groups]
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    saved = cache.get(key)
    if saved is not None:
        return from_bytes(saved)
    calibration = signal.calibrate(base, phrasings, prefixes, settings)
    cache.put(key, to_bytes(calibration))
    return calibration
