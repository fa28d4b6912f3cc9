"""The part of a report about pruned heads: which they are, what pruning gained and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, UndefinedError
from markupsafe import Markup

from editcli.store.tables.database import DAMAGED
from editors import EditorError
from editors.heads.pruning import Head
from editors.methods.edit_state import EditState

BEST = 10  # heads of each kind, in the table


def pruned_heads(edits: EditState, templates: Environment) -> Markup | None:
    """What the page says about pruned heads; None where none are pruned.

    Raises:
        EditorError: the record of the heads is damaged.
    """
    if edits.pruning is None:
        return None
    mask, report = edits.pruning.mask, edits.pruning.report
    try:
        heads = report.get("heads", [])
        grouped = report.get("locating", {}).get("unit") == "group"
        outlined = _groups(report, mask.heads) if grouped else set(mask.heads)
        text = templates.get_template("heads.html").render(
            pruning=edits.pruning,
            stale=edits.stale,
            report=report,
            grouped=grouped,
            outlined=outlined,
            listed=_listed(heads, outlined),
        )
    except (LookupError, ValueError, TypeError, AttributeError, UndefinedError) as error:
        raise EditorError(
            f"the record of pruned heads cannot be read: {error!r}", DAMAGED
        ) from error
    return Markup(text)


def _groups(report: Mapping[str, Any], pruned: Sequence[Head]) -> set[Head]:
    """The groups whose query heads were pruned: those of the trial with just these heads."""
    for trial in report.get("grid", ()):
        units = [Head(int(layer), int(unit)) for layer, unit in trial["heads"]]
        size = len(pruned) // max(1, len(units))
        if {Head(u.layer, u.head * size + i) for u in units for i in range(size)} == set(pruned):
            return set(units)
    return set()


def _listed(heads: Sequence[Mapping[str, Any]], outlined: set[Head]) -> list[Mapping[str, Any]]:
    """The pruned heads and the best ones of either kind."""
    listed = [head for head in heads if (head["layer"], head["head"]) in outlined]
    for score in ("memory", "context"):
        ranked = sorted(heads, key=lambda head: -head[score])[:BEST]
        listed += [head for head in ranked if head not in listed]
    return listed
