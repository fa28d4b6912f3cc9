"""What a scope signal knows, as data: about the base, and about each fact.

Keys are stored in pages of facts. So a version that adds a fact stores only the keys of one page
again, not the keys of all facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from editors.errors import StateMismatch
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.base import FactKeys, Tensors

PAGE = 50  # facts
CALIBRATION = "scope.safetensors"
_COUNTS = ".counts"


@dataclass(frozen=True, slots=True)
class ScopeState:
    """``signal``: the name of the signal; ``calibration``: what it knows about the base; ``keys``:
    the keys of each fact, by id; ``pages``: the ids that are stored together."""

    signal: str
    calibration: Tensors = field(default_factory=dict)
    keys: Mapping[str, FactKeys] = field(default_factory=dict)
    pages: tuple[tuple[str, ...], ...] = ()

    def knowing(self, keys: Mapping[str, FactKeys]) -> ScopeState:
        """The state with ``keys`` added; they replace earlier keys of the same facts."""
        *full, last = self.pages or ((),)
        facts = (*last, *(fact for fact in keys if fact not in self.keys))
        filled = [facts[start : start + PAGE] for start in range(0, len(facts), PAGE)]
        return replace(self, keys={**self.keys, **keys}, pages=(*full, *filled))

    def only(self, facts: Sequence[str]) -> ScopeState:
        """The state with the keys of ``facts`` (ids) only, in this order."""
        wanted = set(facts)
        pages = tuple(tuple(fact for fact in page if fact in wanted) for page in self.pages)
        keys = {fact: self.keys[fact] for fact in facts}
        return replace(self, keys=keys, pages=tuple(page for page in pages if page))

    def dump(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The state as a plain JSON summary and named blobs."""
        blobs = {CALIBRATION: to_bytes(self.calibration)} if self.calibration else {}
        for number, page in enumerate(self.pages):
            blobs[_page(number)] = to_bytes(packed([self.keys[fact] for fact in page]))
        summary = {
            "signal": self.signal,
            "calibrated": bool(self.calibration),
            "order": list(self.keys),
            "pages": [list(page) for page in self.pages],
        }
        return summary, blobs

    @staticmethod
    def load(summary: Mapping[str, Any], blobs: Mapping[str, bytes]) -> ScopeState:
        """The state that :meth:`dump` wrote.

        Raises:
            StateMismatch: a blob cannot be read, or the blobs have other facts than the summary.
            LookupError, ValueError: the summary or a blob is not complete.
        """
        pages = tuple(tuple(page) for page in summary["pages"])
        keys: dict[str, FactKeys] = {}
        for number, page in enumerate(pages):
            keys.update(zip(page, unpacked(from_bytes(blobs[_page(number)])), strict=True))
        if set(summary["order"]) != set(keys):
            raise StateMismatch("the keys of the scope are not those of its facts")
        calibration = from_bytes(blobs[CALIBRATION]) if summary["calibrated"] else {}
        ordered = {fact: keys[fact] for fact in summary["order"]}
        return ScopeState(summary["signal"], calibration, ordered, pages)


def packed(facts: Sequence[FactKeys]) -> dict[str, torch.Tensor]:
    """The keys of several facts as tensors to save: for each name, the tensors of all facts joined,
    and the number of keys of each fact."""
    tensors: dict[str, torch.Tensor] = {}
    for name in facts[0] if facts else ():
        tensors[name] = torch.cat([fact[name] for fact in facts])
        tensors[name + _COUNTS] = torch.tensor([len(fact[name]) for fact in facts])
    return tensors


def unpacked(tensors: Tensors) -> list[FactKeys]:
    """The keys of the facts that :func:`packed` joined to ``tensors``."""
    names = [name for name in tensors if name + _COUNTS in tensors]
    parts = [torch.split(tensors[name], tensors[name + _COUNTS].tolist()) for name in names]
    return [dict(zip(names, fact, strict=True)) for fact in zip(*parts, strict=True)]


def _page(number: int) -> str:
    return f"scope-keys-{number:04d}.safetensors"
