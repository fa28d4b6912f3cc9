"""FT-M: fine-tuning of one projection on targets only, with a bound on the change; always on.

The name is from Zhang et al., "A Comprehensive Study of Knowledge Editing for Large Language
Models" (arXiv 2401.01286): the loss is on the tokens of the target, with the prompt masked. The
bound on each entry is from Zhu et al., "Modifying Memories in Transformer Models" (arXiv
2012.00363). This module needs no tensor library.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any

from editors.errors import EditorError
from editors.methods.edit_state import EditState
from editors.methods.spec import MethodSpec, edited_projection
from editors.schema import Field, Number, Whole, record


@record(EditorError)
class FtMSettings:
    """``learning_rate`` and ``bound`` (the largest change of any entry) are in units of the
    projection's root mean square weight. ``confidence``: the probability that each target token
    must reach; then training ends, or after ``max_steps``. ``group_size``: the number of facts that
    are trained together."""

    learning_rate: Annotated[Number, Field(ge=1e-8, le=1e3)] = 0.05
    bound: Annotated[Number, Field(ge=1e-8, le=1e3)] = 1.0
    confidence: Annotated[Number, Field(ge=0, le=1)] = 0.9
    max_steps: Annotated[Whole, Field(ge=1, le=100_000)] = 400
    group_size: Annotated[Whole, Field(ge=1, le=100_000)] = 100


DELTA = "delta.safetensors"


def _about(state: EditState) -> dict[str, Any]:
    return {"groups": len(state.payload.made_from.get(DELTA, ()))}


SPEC = MethodSpec(
    name="ft-m",
    title="fine-tuning of one projection",
    reference="arXiv 2401.01286",
    routed=False,
    undo="retraining",
    cost="an edit trains one projection; an answer costs a product more",
    settings=FtMSettings,
    implementation="editors.methods.ft_m.method:FtM",
    edits=edited_projection,
    kept_entries=lambda _, shapes: sum(map(prod, shapes)),
    about=_about,
)
