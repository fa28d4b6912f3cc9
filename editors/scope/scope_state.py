"""What a scope signal knows, as data: about the base, and about each fact.

Keys are stored in pages of facts. A page that is added takes in the pages before it that are not
larger, up to a limit. So the keys of a fact are stored again a few times at most, however many
versions follow, and there are few pages.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from editors.errors import StateMismatch
from editors.model.saved_payload import SavedPayload, numbered
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.base import FactKeys, Tensors

PAGE = 64  # facts
CALIBRATION = "scope.safetensors"
_PAGE = "scope-keys-"
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
        pages, new = list(self.pages), tuple(fact for fact in keys if fact not in self.keys)
        while pages and len(pages[-1]) <= len(new) and len(pages[-1]) + len(new) <= PAGE:
            new = (*pages.pop(), *new)
        filled = [new[start : start + PAGE] for start in range(0, len(new), PAGE)]
        return replace(self, keys={**self.keys, **keys}, pages=(*pages, *filled))

    def only(self, facts: Sequence[str]) -> ScopeState:
        """The state with the keys of ``facts`` (ids) only, in this order."""
        wanted = set(facts)
        pages = tuple(tuple(fact for fact in page if fact in wanted) for page in self.pages)
        keys = {fact: self.keys[fact] for fact in facts}
        return replace(self, keys=keys, pages=tuple(page for page in pages if page))

    def dropping(self, facts: Collection[str]) -> ScopeState:
        """The state without the keys of ``facts`` (ids)."""
        return self.only([fact for fact in self.keys if fact not in facts])

    def dump(self) -> SavedPayload:
        """The state as a payload; each page is a blob that was made from its facts."""
        blobs = {CALIBRATION: to_bytes(self.calibration)} if self.calibration else {}
        for number, page in enumerate(self.pages):
            blobs[_page(number)] = to_bytes(packed([self.keys[fact] for fact in page]))
        made_from = {_page(number): (page,) for number, page in enumerate(self.pages)}
        summary = {"signal": self.signal, "calibrated": bool(self.calibration)}
        return SavedPayload(summary, blobs, made_from)

    @staticmethod
    def load(saved: SavedPayload, order: Sequence[str]) -> ScopeState:
        """The state that :meth:`dump` wrote; other blobs may be among those of ``saved``.
        ``order``: ids of facts, those of the state among them, in the order of editing.

        Raises:
            StateMismatch: a blob cannot be read.
            LookupError, ValueError: the summary or a blob is not complete, or a blob has other
                facts than it was made from.
        """
        names = numbered(saved.made_from, _PAGE)
        pages = tuple(saved.made_from[name][0] for name in names)
        keys: dict[str, FactKeys] = {}
        for name, page in zip(names, pages, strict=True):
            keys.update(zip(page, unpacked(from_bytes(saved.blobs[name])), strict=True))
        calibration = from_bytes(saved.blobs[CALIBRATION]) if saved.summary["calibrated"] else {}
        ordered = {fact: keys.pop(fact) for fact in order if fact in keys}
        if keys:
            raise StateMismatch("the scope has keys of facts that are missing")
        return ScopeState(saved.summary["signal"], calibration, ordered, pages)


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
    return f"{_PAGE}{number:04d}.safetensors"
