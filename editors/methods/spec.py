"""What is known of an editing method before its code is loaded. Needs no tensor library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from editors.methods.edit_state import EditState, Scalar
from editors.schema import settings_from

if TYPE_CHECKING:
    from editors.model.architecture import Architecture
    from editors.model.base_model import Base
    from editors.model.projection import Projection

Undo = Literal["exact", "retraining"]
"""How a fact is taken back: its gate is closed, which needs no model, or what is left is trained
again from the start."""


def _nothing(state: EditState) -> dict[str, Any]:
    return {}


def _nothing_of_fact(state: EditState, fact: str) -> dict[str, Any]:
    return {}


def _no_facts(state: EditState) -> Iterable[str]:
    return ()


def _no_reason(settings: Mapping[str, Scalar]) -> None:
    return None


def _no_module(architecture: Architecture, layer: int) -> tuple[Projection, ...]:
    return ()


def edited_projection(architecture: Architecture, layer: int) -> tuple[Projection, ...]:
    """The MLP down-projection of block ``layer``; raises UnsupportedArchitecture."""
    return (architecture.editable(layer),)


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """An editing method, as ``editcli methods`` lists it.

    ``title`` and ``reference``: what it is called and where it was published. ``routed``: an edit
    answers only prompts that it claims, and all others get the base's logits, bit for bit; else it
    is always on. ``undo``: how facts are taken back. ``cost``: of an edit and of an answer, in a
    few words. ``settings``: a dataclass of scalars with defaults. ``implementation``: the
    :class:`~editors.methods.base.Method`, as "module:class". ``edits``: the projections that it
    edits, of a model's structure and the block that was chosen.

    ``named_facts``: the ids of the facts that the saved payload names, all of which a store must
    hold. ``about`` and ``about_fact``: what the method adds to what is shown of a version and of a
    fact, read from the saved payload. ``why_no_undo``: why these settings keep single facts from
    being taken back, None where they do not.
    """

    name: str
    title: str
    reference: str
    routed: bool
    undo: Undo
    cost: str
    settings: type[Any]
    implementation: str
    edits: Callable[[Architecture, int], Sequence[Projection]] = _no_module
    named_facts: Callable[[EditState], Iterable[str]] = _no_facts
    about: Callable[[EditState], dict[str, Any]] = _nothing
    about_fact: Callable[[EditState, str], dict[str, Any]] = _nothing_of_fact
    why_no_undo: Callable[[Mapping[str, Scalar]], str | None] = _no_reason

    def all_settings(self, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Every setting: those given, over the defaults.

        Raises:
            EditorError: an unknown name, or a value of the wrong type or range.
        """
        return asdict(settings_from(self.settings, self.name, given))

    def build(self, base: Base, settings: Mapping[str, Scalar], seed: int) -> Any:
        """The method (a :class:`~editors.methods.base.Method`) on one base; raises as
        :meth:`all_settings`."""
        module, _, name = self.implementation.partition(":")
        method = getattr(import_module(module), name)
        return method(base, settings_from(self.settings, self.name, settings), seed)
