"""WISE: lifelong edits in side memories of one projection, split into shards and routed.

Wang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language
Models", NeurIPS 2024 (arXiv 2405.14768). Only this folder uses shards: ``method`` chooses the facts
of a shard, ``training`` trains it, ``memory_layer`` applies it. This module needs no tensor
library.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import prod
from typing import Any

from editors.methods.edit_state import EditState, Scalar
from editors.methods.spec import MethodSpec, Shapes, edited_projection
from editors.methods.wise.settings import WiseSettings
from editors.model.saved_payload import Groups, numbered

SHARD = "shard-"
"""How the names of the blobs of shards begin; their numbers follow."""


def _shards(state: EditState) -> dict[str, Groups]:
    """By the names of their blobs, the groups of the shards, in order."""
    made_from: Mapping[str, Groups] = state.payload.made_from
    return {name: made_from[name] for name in numbered(made_from, SHARD)}


def _about(state: EditState) -> dict[str, Any]:
    return {"shards": len(_shards(state))}


def _about_fact(state: EditState, fact: str) -> dict[str, Any]:
    shards = _shards(state).values()
    holding = [n for n, groups in enumerate(shards) if any(fact in group for group in groups)]
    return {"shard": holding[-1] if holding else None}


def _why_no_undo(settings: Mapping[str, Scalar]) -> str | None:
    if settings.get("scope") != "activation":
        return None
    return "this store routes by activations, so single facts cannot be taken back"


def _kept_entries(settings: Mapping[str, Scalar], shapes: Shapes) -> int:
    """Those of the two matrices of a shard, or those in its mask: a random share."""
    if settings["memory"] == "low-rank":
        return sum(int(settings["memory_rank"]) * sum(shape) for shape in shapes)
    return round(sum(map(prod, shapes)) * float(settings["mask_ratio"]))


def _depth(settings: Mapping[str, Scalar]) -> Fraction | None:
    """Memories of single facts know nothing of each other: the later, the less they disturb."""
    return Fraction(15, 16) if settings.get("profile") == "separate" else None


SPEC = MethodSpec(
    name="wise",
    title="side memories in shards, with a router",
    reference="arXiv 2405.14768, NeurIPS 2024",
    routed=True,
    undo="exact",
    cost="an edit trains a fifth of one projection; an answer costs a product more where claimed",
    settings=WiseSettings,
    implementation="editors.methods.wise.method:Wise",
    edits=edited_projection,
    for_language={"profile": "separate"},
    about=_about,
    about_fact=_about_fact,
    why_no_undo=_why_no_undo,
    kept_entries=_kept_entries,
    depth=_depth,
)
