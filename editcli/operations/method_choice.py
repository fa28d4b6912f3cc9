"""Which settings a method has on a model when the user names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from editcli.models.locations import ATLAS, ModelLocation
from editors.scope.relation.encoders.packages import MINILM, packaged_folder

if TYPE_CHECKING:
    from editors.methods.edit_state import Scalar
    from editors.methods.spec import MethodSpec


def needs_encoder(spec: MethodSpec, location: ModelLocation) -> bool:
    """Whether the method does best on this model with the settings for language that people use,
    which need a sentence encoder. On atlas, which knows few words, it does not."""
    return bool(spec.for_language) and location.shown != ATLAS


def chosen_settings(
    spec: MethodSpec, location: ModelLocation, given: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """``given`` over the settings that suit the model, as far as the sentence encoder is
    installed."""
    if needs_encoder(spec, location) and packaged_folder(MINILM):
        return {**spec.for_language, **given}
    return dict(given)
