"""The part of a report that tells of pruned heads: which, what it gained, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editcli.report.html import figure, pairs, said, table
from editcli.report.svg import Place, head_map, legend
from editcli.store.history import DAMAGED
from editcli.store.ledger import Ledger
from editcli.store.store import Store, Version
from editors import EditorError

if TYPE_CHECKING:
    from editors.heads.head_mask import Head, Resolution

HEAD_MASK = "head_mask.json"
TOP = 10  # heads of each kind in the table

CHECKS = {
    "neutral": "loss on neutral text, nats a token",
    "facts": "questions without a passage",
    "gold": "passages that agree",
    "irrelevant": "irrelevant passages",
    "edited": "edited prompts",
    "rephrased": "their rephrases",
    "near": "near prompts",
    "copying": "copying of a text said twice",
    "other": "answers from neither source",
}


def of_heads(store: Store, version: Version, ledger: Ledger) -> list[str]:
    """What there is to say of a version's pruned heads, as markup; nothing where there are none.

    Raises:
        EditorError: the record of the heads is damaged.
    """
    if HEAD_MASK not in version.blobs:
        return []
    from editors.heads.head_mask import Resolution

    try:
        resolution = Resolution.from_dict(blob_json(store, version, HEAD_MASK), {})
        return _of_resolution(resolution, stale=_stale(resolution, ledger))
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise EditorError(
            f"the pruned heads of {version.id} cannot be read: {error!r}", DAMAGED
        ) from error


def _stale(resolution: Resolution, ledger: Ledger) -> bool:
    """Whether other edits were in force when the heads were ranked; no shard is read for it."""
    from editors.methods.edit_state import EditState

    facts = {fact.id: fact for fact in ledger.in_force()}
    return EditState("", {}, 0, "", "", facts, resolution=resolution).stale


def _of_resolution(resolution: Resolution, *, stale: bool) -> list[str]:
    mask, report = resolution.mask, resolution.report
    names = ", ".join(f"{head.layer}.{head.head}" for head in mask.heads)
    what = "pruned" if mask.scale == 0 else f"scaled by {mask.scale:g}"
    where = "at all positions" if mask.at == "all" else "from the end of the prompt on"
    rows = report.get("rows") or {}
    file = f"{report['file']} ({str(report.get('digest'))[:12]})" if report.get("file") else ""
    parts = [
        f"<p>Where a passage and the model's memory differ, this version prefers "
        f"<strong>{said(resolution.prefer)}</strong>. A head is named layer.head, both from 0.</p>"
    ]
    if stale:
        parts.append(
            '<p class="warn"><strong>Stale:</strong> these heads were ranked with other edits in '
            "force. <code>editcli conflict resolve</code> ranks them again.</p>"
        )
    parts.append(
        pairs(
            {
                f"{len(mask.heads)} head{'s' * (len(mask.heads) != 1)} {what}": said(
                    f"{names}, {where}"
                ),
                "ranked with": said("other edits" if stale else "the edits in force"),
                "conflicts": said(file),
                "rows": said(", ".join(f"{n} {split}" for split, n in rows.items())),
            }
        )
    )
    return parts + _rates(report) + _locality(report) + _maps(report, mask.heads)


def _rates(report: Mapping[str, Any]) -> list[str]:
    sources = ("memory", "context", "other")
    rows = [
        [when, *(_rate(report[when], source) for source in sources), said(report[when]["rows"])]
        for when in ("before", "after")
        if report.get(when)
    ]
    if not rows:
        return []
    caption = "Where answers came from on the test split, with 95 % intervals"
    columns = ["heads pruned", *sources, "rows"]
    return [table(columns, rows, caption=caption, numbers=columns[1:])]


def _rate(measured: Mapping[str, Any], source: str) -> str:
    low, high = (measured.get("ci95") or {}).get(source) or (None, None)
    around = "" if low is None else f' <span class="quiet">{low:.3f} to {high:.3f}</span>'
    return figure(measured.get(source)) + around


def _locality(report: Mapping[str, Any]) -> list[str]:
    locality = report.get("locality")
    if not locality:
        return []
    from editors.conflicts.locality import GATES

    scores, refused = locality["scores"], locality["refused"]
    rows = [
        [
            said(CHECKS.get(name, name)),
            figure(scores["before"].get(name)),
            figure(scores["after"].get(name)),
            figure(lost, sign=True),
            figure(GATES.get(name)),
            '<span class="bad">beyond the gate</span>' if name in refused else "within",
        ]
        for name, lost in locality["lost"].items()
    ]
    columns = ["check", "before", "after", "lost", "gate", "verdict"]
    caption = "What must not suffer; a loss above its gate is saved by force only"
    parts = [table(columns, rows, caption=caption, numbers=columns[1:5])] if rows else []
    if following := locality.get("next_token"):
        parts.append(
            "<p>Share of neutral prompts that keep their likeliest next token: "
            f"{figure(following['same_top'])}; KL in nats: {figure(following['kl'])}.</p>"
        )
    if "reversible" in locality:
        same = locality["reversible"]
        told = "the same bit for bit" if same else '<span class="bad">not the same</span>'
        parts.append(f"<p>With the heads put back, logits were {told}.</p>")
    return parts


def _maps(report: Mapping[str, Any], pruned: Sequence[Head]) -> list[str]:
    heads = report.get("heads")
    if not heads:
        return []
    grouped = (report.get("locating") or {}).get("unit") == "group"
    outlined = set(_groups(report, pruned) if grouped else [(h.layer, h.head) for h in pruned])
    unit = "query heads of a key-value head" if grouped else "head"
    figures = []
    for score in ("memory", "context"):
        ranked = sorted(heads, key=lambda head: -head[score])[:TOP]
        best = ", ".join(f"{h['layer']}.{h['head']} ({h[score]:+.3f})" for h in ranked)
        title = f"{score} heads"
        figures.append(
            f"<figure><h3>{title.capitalize()}</h3>"
            f'<div class="scroll" tabindex="0" role="group" aria-label="{title}">'
            f"{head_map(heads, score, outlined, title, f'Best first: {best}')}</div>"
            f"{legend(score, max(0.0, ranked[0][score]))}</figure>"
        )
    return [
        f"<p>Each row is a layer, the last on top, and each cell the {unit}: the stronger its "
        "colour, the more of the answer from that source is lost without it, in logits.</p>",
        f'<div class="maps">{"".join(figures)}</div>',
        _heads_table(heads, outlined),
    ]


def _groups(report: Mapping[str, Any], pruned: Sequence[Head]) -> list[Place]:
    """The groups whose query heads were pruned: the set on trial that these heads make up."""
    wanted = {(head.layer, head.head) for head in pruned}
    for trial in report.get("grid") or ():
        units = [(int(layer), int(unit)) for layer, unit in trial["heads"]]
        each = len(wanted) // max(1, len(units))
        if {(layer, unit * each + i) for layer, unit in units for i in range(each)} == wanted:
            return units
    return []


def _heads_table(heads: Sequence[Mapping[str, Any]], outlined: set[Place]) -> str:
    """The best heads of either kind and the pruned ones, as text."""
    listed = [h for h in heads if (h["layer"], h["head"]) in outlined]
    for score in ("memory", "context"):
        ranked = sorted(heads, key=lambda head: -head[score])[:TOP]
        listed += [head for head in ranked if head not in listed]
    rows = [
        [
            f"{h['layer']}.{h['head']}",
            "yes" if (h["layer"], h["head"]) in outlined else "",
            *(figure(h[score], sign=True) for score in ("memory", "context", "joint")),
            *(figure(h["stable"][score]) for score in ("memory", "context")),
        ]
        for h in listed
    ]
    columns = ["head", "pruned", "memory", "context", "joint"]
    columns += ["stable, memory", "stable, context"]
    caption = "Stable: the share of resamples of the rows with the head among the ten best"
    drawn = table(columns, rows, caption=caption, numbers=columns[2:])
    return f"<details><summary>The best heads as a table</summary>{drawn}</details>"


def blob_json(store: Store, version: Version, name: str) -> dict[str, Any]:
    """Raises EditorError for a blob that is not one JSON object."""
    try:
        found = json.loads(store.read(version, name))
    except ValueError as error:
        raise EditorError(f"{name} of {version.id} is not JSON: {error}", DAMAGED) from error
    if not isinstance(found, dict):
        raise EditorError(f"{name} of {version.id} is not a JSON object", DAMAGED)
    return found
