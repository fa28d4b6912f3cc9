"""The description of an editing method, without its code. Needs no tensor library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

from editors.methods.edit_state import EditState, Scalar
from editors.schema import settings_from

if TYPE_CHECKING:
    from editors.model.architecture import Architecture
    from editors.model.base_model import Base
    from editors.model.projection import Projection

Shapes = Sequence[tuple[int, int]]
"""The shapes of projections: features out and in, or in and out."""

Undo = Literal["exact", "retraining"]
"""How a fact is taken back. "exact": closing the fact suffices, without a model. "retraining": the
remaining facts are trained again from the start."""


def edited_projection(architecture: Architecture, layer: int) -> tuple[Projection, ...]:
    """The MLP down-projection of block ``layer``; raises UnsupportedArchitecture if it has none."""
    return (architecture.editable(layer),)


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """An editing method, as ``editcli methods`` lists it.

    ``title``: what it does, in a few words; ``reference``: its publication. ``routed``: an edit
    answers only prompts that it claims, and all other prompts have the logits of the base, bit for
    bit; otherwise edits are always on. ``undo``: how facts are taken back. ``cost``: of an edit and
    of an answer, in a few words. ``settings``: a dataclass of scalars with defaults.
    ``implementation``: the :class:`~editors.methods.base.Method`, as "module:class". ``edits``:
    from an architecture and the chosen layer to the projections that the method changes.
    ``for_language``: settings for prompts in any words that people use; they need the sentence
    encoder.

    The other fields are functions of an :class:`EditState` with a saved payload, or of settings.
    ``about`` and ``about_fact``: what the method adds to the description of a version and of a fact
    (an id).
    ``why_no_undo``: why single facts cannot be taken back with these settings, None if they can.
    ``kept_entries``: with these settings, about how many numbers an edit (of wise: a shard) keeps
    of projections of these shapes.
    ``depth``: with these settings, the share of the depth at which the method edits best, None for
    the default.
    """

    name: str
    title: str
    reference: str
    routed: bool
    undo: Undo
    cost: str
    settings: type[Any]
    implementation: str
    edits: Callable[[Architecture, int], Sequence[Projection]] = lambda *_: ()
    for_language: Mapping[str, Scalar] = field(default_factory=dict)
    about: Callable[[EditState], dict[str, Any]] = lambda _: {}
    about_fact: Callable[[EditState, str], dict[str, Any]] = lambda *_: {}
    why_no_undo: Callable[[Mapping[str, Scalar]], str | None] = lambda _: None
    kept_entries: Callable[[Mapping[str, Scalar], Shapes], int] = lambda *_: 0
    depth: Callable[[Mapping[str, Scalar]], Fraction | None] = lambda _: None

    def all_settings(self, chosen: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """All settings: ``chosen`` over the defaults.

        Raises:
            EditorError: a name is unknown, or a value has the wrong type or range.
        """
        return asdict(settings_from(self.settings, self.name, chosen))

    def build(self, base: Base, settings: Mapping[str, Scalar], seed: int) -> Any:
        """The method, a :class:`~editors.methods.base.Method`, on ``base``.

        Raises:
            EditorError: a setting is unknown, or has the wrong type or range.
        """
        method = resolve_name(self.implementation)
        return method(base, settings_from(self.settings, self.name, settings), seed)
