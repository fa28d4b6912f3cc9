"""In-context editing: the fact that a prompt asks for is put before the prompt; no weight changes.

This is the usual alternative to editing a model, and so a baseline for the other methods (compare
IKE, Zheng et al., EMNLP 2023, arXiv 2305.12740). This module needs no tensor library.
"""

from __future__ import annotations

from collections.abc import Iterable

from editors.methods.edit_state import EditState
from editors.methods.in_context.settings import InContextSettings
from editors.methods.spec import MethodSpec


def _named_facts(state: EditState) -> Iterable[str]:
    order: list[str] = state.payload.summary["order"]
    return order


SPEC = MethodSpec(
    name="in-context",
    title="the fact is put before the prompt",
    reference="compare arXiv 2305.12740, EMNLP 2023",
    routed=True,
    undo="exact",
    cost="an edit trains nothing; a claimed prompt grows by the text of its fact",
    settings=InContextSettings,
    implementation="editors.methods.in_context.method:InContext",
    named_facts=_named_facts,
)
