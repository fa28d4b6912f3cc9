"""WISE: lifelong edits in side memories of one projection, split into shards and routed.

Wang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language
Models", NeurIPS 2024 (arXiv 2405.14768). Only this folder uses shards: ``method`` chooses the facts
of a shard, ``training`` trains it, ``memory_layer`` applies it. This module needs no tensor
library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from editors.methods.edit_state import EditState, Scalar
from editors.methods.spec import MethodSpec, edited_projection
from editors.methods.wise.settings import WiseSettings


def _named_facts(state: EditState) -> Iterable[str]:
    summary = state.payload.summary
    shards = [fact for groups in summary["shards"] for group in groups for fact in group]
    return [*shards, *summary["scope"]["order"], *summary.get("plain", ())]


def _about(state: EditState) -> dict[str, Any]:
    return {"shards": len(state.payload.summary["shards"])}


def _about_fact(state: EditState, fact: str) -> dict[str, Any]:
    summary = state.payload.summary
    shards = summary["shards"]
    holding = [n for n, groups in enumerate(shards) if any(fact in group for group in groups)]
    plain = fact in summary.get("plain", ())  # releases up to 0.2 do not write it
    return {"shard": holding[-1] if holding else None, "plain": plain}


def _why_no_undo(settings: Mapping[str, Scalar]) -> str | None:
    if settings.get("scope") != "activation":
        return None
    return "this store routes by activations, so single facts cannot be taken back"


def _kept_entries(settings: Mapping[str, Scalar], entries: int) -> int:
    """Those in the mask of a shard: a random share."""
    return round(entries * float(settings["mask_ratio"]))


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
    named_facts=_named_facts,
    about=_about,
    about_fact=_about_fact,
    why_no_undo=_why_no_undo,
    kept_entries=_kept_entries,
    depth=_depth,
)
