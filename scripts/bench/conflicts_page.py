"""The page docs/conflicts.md, of the results in docs/conflicts.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

PREFER = ("memory", "context")
BAR = {"memory": 0.45, "context": 0.40}


def page(results: Mapping[str, Any]) -> str:
    lines = [*_HEAD]
    bars = {p: results[f"prune:{p}"] for p in PREFER if f"prune:{p}" in results}
    lines += ["## Against the bars", "", *_pruning(bars, BAR)]
    if part := results.get("prune:memory"):
        lines += ["", "The ten best of each ranking (layer.head, score in logits):", ""]
        for score in PREFER:
            best = ", ".join(f"{h[0]}.{h[1]} {v:.2f}" for h, v in part["locating"][score])
            lines.append(f"- {score}: {best}")
        lines += _LIMITS
    if part := results.get("smollm2"):
        lines += [*_REAL, *_knowledge(part), "", *_pruning(part, {}), "", *_REAL_LIMITS]
    lines += _LEFT_OUT
    for prefer in PREFER:
        if part := results.get(f"rivals:{prefer}"):
            lines += [
                "",
                f"## Rivals, prefer {prefer} ({part['k']} heads, {part['rows']} test rows)",
                "",
                "| by | memory | context | other | gold lost | irrelevant lost | facts lost "
                "| neutral lost | time to decode |",
                "|---|---|---|---|---|---|---|---|---|",
            ]
            for name, row in part["table"].items():
                lost = row["lost"]
                cells = [
                    f"{lost[n]:+.3f}" if n in lost else "-"
                    for n in ("gold", "irrelevant", "facts", "neutral")
                ]
                lines.append(
                    f"| {_NAMES[name]} | "
                    + " | ".join(f"{row[n][0]:.3f}" for n in ("memory", "context", "other"))
                    + " | "
                    + " | ".join(cells)
                    + f" | {row.get('cost', 1.0):.2f} |"
                )
            for name in ("cad", "juice"):
                lines += ["", f"{_NAMES[name]}: {json.dumps(part['table'][name]['settings'])}"]
    transferred = [p for p in PREFER if f"transfer:{p}" in results]
    if transferred:
        lines += ["", "## Across relations", ""]
    for prefer in transferred:
        part = results[f"transfer:{prefer}"]
        lines.append(
            f"- prefer {prefer}: gains on the relations that heads were found on "
            f"{part['own']}, on the others {part['other']}: {part['kept']:.0%} carry over"
        )
    if part := results.get("edits"):
        lines += [
            "",
            "## Edits meet conflicts",
            "",
            f"{part['facts']} facts edited, each then contradicted by a passage with a third "
            "answer of the same relation and by one with the old answer, on the same questions. A "
            "weight of the passage is that of contrastive decoding: -1 goes by memory alone.",
            "",
            "| passage says it | what is done | opened, with passage | third answer: edit "
            "| passage | old answer | other | old answer: edit | passage | other "
            "| edit, no passage |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for how_often in ("once", "four times"):
            for name, row in part[how_often].items():
                if name == "opened_without_passage":
                    continue
                alone = f"{row['no_passage']:.3f}" if "no_passage" in row else "-"
                third, stale = row["by_state"]["third"], row["by_state"]["stale"]
                rates = [third[n] for n in ("edit", "context", "before", "other")]
                rates += [stale[n] for n in ("edit", "context", "other")]
                lines.append(
                    f"| {how_often} | {_DONE.get(name, name)} | "
                    f"{row['router']['opened_with_passage']:.3f} | "
                    + " | ".join(f"{rate:.3f}" for rate in rates)
                    + f" | {alone} |"
                )
        lines += [
            "",
            "Without the passage the router opens "
            f"{part['once']['opened_without_passage']:.3f} of the questions.",
        ]
    if part := results.get("speed"):
        lines += [
            "",
            "## Cost of ranking",
            "",
            f"{part['heads']} heads of a GPT-2-small shape, {part['rows']} rows: "
            f"{part['seconds']:.2f} s (median of five) against "
            f"{part['literal_seconds']:.1f} s of one whole forward a head: "
            f"{part['ratio']:.0f} times faster, largest difference "
            f"{part['largest_gap']:.1e}.",
        ]
    for command in ("locate", "resolve"):
        if part := results.get(f"shapes:{command}"):
            lines += [
                "",
                f"| {command}, random weights | parameters | rows a split | time | peak memory |",
                "|---|---|---|---|---|",
            ]
            for shape, row in part.items():
                lines.append(
                    f"| {shape} | {row['parameters'] / 1e6:.0f} M | {row['rows']} | "
                    f"{row['seconds']:.1f} s | {row['peak_memory_bytes'] / 2**30:.1f} GiB |"
                )
    return "\n".join(lines) + "\n"


def _pruning(parts: Mapping[str, Any], bars: Mapping[str, float]) -> list[str]:
    """What pruning gained and cost, by the source that is preferred; ``bars``: the gain that is
    asked for, if one is."""
    gain_column = "gain (bar)" if bars else "gain"
    lines = [
        f"| prefer | heads pruned | memory | context | other | {gain_column} | refused by |",
        "|---|---|---|---|---|---|---|",
    ]
    for prefer, part in parts.items():
        before, after = part["before"], part["after"]
        heads = ", ".join(f"{layer}.{head}" for layer, head in part["heads"])
        bar = f" ({bars[prefer]:.2f})" if bars else ""
        moved = [f"{before[n][0]:.3f} → {after[n][0]:.3f}" for n in ("memory", "context", "other")]
        lines.append(
            f"| {prefer} | {heads} ({part['listing']}) | "
            + " | ".join(moved)
            + f" | {after[prefer][0] - before[prefer][0]:+.3f}{bar} | "
            + f"{', '.join(part['refused']) or 'none'} |"
        )
    lines += ["", "What it cost (positive is worse; neutral in nats a token, all else shares):", ""]
    names = list(next((part["lost"] for part in parts.values()), {}))
    lines += ["| prefer | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for prefer, part in parts.items():
        lines.append(f"| {prefer} | " + " | ".join(f"{part['lost'][n]:+.4f}" for n in names) + " |")
    for prefer, part in parts.items():
        following, cpu = part["next_token"], part.get("cpu_seconds")
        lines += [
            "",
            f"Prefer {prefer}: {following['same_top']:.1%} of neutral prompts keep their "
            f"likeliest next token (KL {following['kl']:.4f}); taken off, logits are "
            f"{'bit-identical' if part['reversible'] else 'NOT identical'}. "
            f"{part['seconds']:.0f} s in all beside other work"
            + (f", {cpu:.0f} s of a CPU" if cpu else "")
            + f"; {_stages(part['stages'])}.",
        ]
    return lines


def _stages(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())


def _knowledge(parts: Mapping[str, Any]) -> list[str]:
    """How many facts the model knows, and how known and unknown ones are answered."""
    facts, before = parts["memory"]["facts"], parts["memory"]["groups"]["before"]
    groups = {"as it is": before} | {
        f"prefer {prefer}": part["groups"]["after"] for prefer, part in parts.items()
    }
    lines = [
        f"Of the {facts['asked']} facts of the test rows, the model knows {facts['known']}: "
        "without a passage, it answers as the row says.",
        "",
        "| | facts | n | memory | context | other |",
        "|---|---|---|---|---|---|",
    ]
    for heading, by_name in groups.items():
        for name, group in by_name.items():
            shares = [group[n] for n in ("memory", "context", "other")]
            cells = ["-" if share is None else f"{share:.3f}" for share in shares]
            lines.append(f"| {heading} | {name} | {group['rows']} | {' | '.join(cells)} |")
    return lines


_DONE = {
    "no head": "nothing",
    "prefer memory": "prefer memory: context heads pruned",
    "prefer context": "prefer context: memory heads pruned, the edit yields to the passage",
    "yielding": "the edit yields to the passage, no head pruned",
    "contrast -1.0": "weight -1",
    "contrast +1.0": "weight +1",
    "contrast +4.0": "weight +4",
}
_NAMES = {
    "none": "as it is",
    "prune": "pruning, path patching (this tool)",
    "gradient": "pruning, by gradient",
    "random": "pruning, random heads of the same layers (mean of 5 sets)",
    "cad": "contrastive decoding (CAD, AdaCAD)",
    "juice": "two-run scaling (JuICE)",
}
_LIMITS = [
    "",
    "What limits it: recall is shared by nine heads of layers 4 and 5, and none of them",
    "does it alone. Pruning a few of them for the passage moves less than pruning those that read",
    "moves for memory. With more of them gone the passage wins more often, and then passages on",
    "something else mislead too: on the dev split the check on irrelevant passages leaves the",
    "larger sets out. That the heads share the work was put there by training",
    "(`scripts/atlas/roles.py`); how is told in",
    "[scripts/atlas/README.md](../scripts/atlas/README.md).",
    "",
]
_REAL = [
    "",
    "## A real model: smollm2",
    "",
    "SmolLM2-135M-Instruct on 200 conflicting rows of the same file, 50 to rank, 50 to choose and",
    "100 to test on: rows of facts that the model knows first, then others. `editcli conflict",
    "measure` tells both apart.",
    "",
]
_REAL_LIMITS: list[str] = []
_LEFT_OUT = [
    "",
    "## What `resolve` leaves out",
    "",
    "Up to release 0.2, every row was ranked, every set of heads passed every check, and",
    "nothing was reused: 871 s for memory and 975 s for the context on atlas, beside other work",
    "as well. What is done less now:",
    "",
    "- **Ranking** takes at most 100 rows of each source, drawn at random (PH3: 200 in all),",
    "  and no joint score, which chooses nothing. On atlas the ten best heads of both rankings",
    "  are the same as of all rows. Each sweep of path patching begins at the block of its",
    "  first head, which changes no score.",
    "- **Choosing** takes at most 200 conflicting rows of the dev split (CUB: 198), 100 pairs",
    "  of each check and 40 neutral texts, instead of all rows and 60 texts. For a head that is",
    "  pruned alone, 25 pairs of each check are taken. Single heads are not tried if a set of",
    "  the best ones leaves less than .01 of the rows to be gained.",
    "- **Checks** run in the order of their cost, and only as far as the choice needs them: not",
    "  for a set whose gain is below the best value, and none after a check that is beyond its",
    "  limit. Forwards begin at the block of the lowest pruned head. Neither changes a choice.",
    "- **Testing** takes all rows of the test split, but 100 neutral texts instead of 300. Each",
    "  prompt is asked once. An answer ends with its fifth word, as only so many are searched,",
    "  or after ten tokens (JuICE), and no earlier than four tokens after the longest answer",
    "  that is looked for. Logits before and after are compared bit for bit on 20 prompts",
    "  instead of 300 texts.",
    "",
    "What that changed on atlas: for memory nothing, the heads and rates are the same. For the",
    "context one of six heads is another (4.2 for 4.3), and the passage wins .881 of the rows",
    "instead of .878; memory, other answers and all checks stay within the intervals of before.",
    "",
    "The tables below are older. Their heads for the context are 5.5, 5.0, 5.3, 5.1, 4.0 and",
    "4.3.",
]
_HEAD = [
    "# Conflicts between passage and memory",
    "",
    "Written by `python scripts/bench/conflicts.py` on 2 CPU cores, one thread each. Rows of",
    "`datasets/atlas/conflicts.jsonl`: heads ranked on the split *locate*, their number chosen on",
    "*dev*, the split *test* used once; answers are greedy and free-running.",
    "",
    "atlas is a model organism of under four million parameters: these numbers show that the",
    "machinery does what it says, not how well pruning does in a large model. There, the published",
    "averages are +44.0 points for memory and +38.5 for context (PH3), with up to 17 points lost",
    "where nothing conflicts.",
    "",
]
