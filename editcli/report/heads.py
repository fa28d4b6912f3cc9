"""The part of a report about pruned heads: which they are, what pruning gained and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editcli.report.head_map import HeadMap
from editcli.store.history import DAMAGED
from editcli.wording import counted
from editors import EditorError
from editors.heads.pruning import Head
from editors.methods.edit_state import EditState

BEST = 10  # heads of each kind, in the table

CHECKS = {
    "neutral": "loss on neutral text, nats a token",
    "facts": "questions without a passage",
    "gold": "passages that agree",
    "irrelevant": "irrelevant passages",
    "edited": "edited prompts",
    "rephrased": "their rephrases",
    "near": "near prompts",
    "copying": "copying of a repeated text",
    "other": "answers from neither source",
}


def pruned_heads(edits: EditState) -> dict[str, Any] | None:
    """What the page says about pruned heads; None where none are pruned.

    Raises:
        EditorError: the record of the heads is damaged.
    """
    if edits.pruning is None:
        return None
    mask, report = edits.pruning.mask, edits.pruning.report
    what = "pruned" if mask.scale == 0 else f"scaled by {mask.scale:g}"
    try:
        return {
            "prefer": edits.pruning.prefer,
            "stale": edits.stale,
            "count": counted(len(mask.heads), "head"),
            "what": what,
            "names": ", ".join(f"{head.layer}.{head.head}" for head in mask.heads),
            "where": "at all positions" if mask.at == "all" else "from the end of the prompt on",
            "file": f"{report['file']} ({str(report['digest'])[:12]})" if "file" in report else "",
            "rows": ", ".join(f"{n} {split}" for split, n in report.get("rows", {}).items()),
            "rates": [_rates(when, report[when]) for when in ("before", "after") if when in report],
            "locality": _locality(report["locality"]) if "locality" in report else None,
            **(_maps(report, mask.heads) if "heads" in report else {"maps": []}),
        }
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise EditorError(
            f"the record of pruned heads cannot be read: {error!r}", DAMAGED
        ) from error


def _rates(when: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    intervals = measured.get("ci95", {})
    rates = [
        {
            "source": source,
            "value": measured[source],
            "interval": "{:.3f} to {:.3f}".format(*intervals[source])
            if source in intervals
            else "",
        }
        for source in ("memory", "context", "other")
    ]
    return {"when": when, "rates": rates, "rows": measured["rows"]}


def _locality(locality: Mapping[str, Any]) -> dict[str, Any]:
    before, after = locality["scores"]["before"], locality["scores"]["after"]
    return {
        "checks": [
            {
                "name": CHECKS.get(name, name),
                "before": before.get(name),
                "after": after.get(name),
                "lost": lost,
                "limit": locality.get("limits", {}).get(name),
                "refused": name in locality["refused"],
            }
            for name, lost in locality["lost"].items()
        ],
        "next_token": locality.get("next_token"),
        "reversible": locality.get("reversible"),
    }


def _maps(report: Mapping[str, Any], pruned: Sequence[Head]) -> dict[str, Any]:
    heads = report["heads"]
    grouped = report.get("locating", {}).get("unit") == "group"
    outlined = _groups(report, pruned) if grouped else set(pruned)
    return {
        "unit": "query heads of a key-value head" if grouped else "head",
        "maps": [HeadMap.of(heads, score, outlined) for score in ("memory", "context")],
        "best": [_best(head, outlined) for head in _listed(heads, outlined)],
    }


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
    listed = [head for head in heads if _head(head) in outlined]
    for score in ("memory", "context"):
        ranked = sorted(heads, key=lambda head: -head[score])[:BEST]
        listed += [head for head in ranked if head not in listed]
    return listed


def _best(head: Mapping[str, Any], outlined: set[Head]) -> dict[str, Any]:
    return {
        "name": f"{head['layer']}.{head['head']}",
        "pruned": _head(head) in outlined,
        "scores": head,
        "stable": head["stable"],
    }


def _head(record: Mapping[str, Any]) -> Head:
    return Head(int(record["layer"]), int(record["head"]))
