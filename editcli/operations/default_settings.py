"""The settings that a new store gets where none are named."""

from __future__ import annotations

from collections.abc import Mapping

from editcli.models.locations import ATLAS
from editors.methods.edit_state import Scalar
from editors.methods.spec import MethodSpec
from editors.scope.relation.encoders.packages import MINILM, packaged_folder


def wants_encoder(spec: MethodSpec, model: str) -> bool:
    """Whether a store of this method on ``model`` is for language that people use."""
    return bool(spec.for_language) and model != ATLAS


def default_settings(spec: MethodSpec, model: str) -> Mapping[str, Scalar]:
    """The settings of a store of this method on ``model`` that differ from the method's own: for
    language that people use, where the sentence encoder is installed."""
    return spec.for_language if wants_encoder(spec, model) and packaged_folder(MINILM) else {}
