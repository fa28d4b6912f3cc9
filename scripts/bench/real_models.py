"""Measure edits on a real language model, SmolLM2-135M-Instruct; write docs/real-models.md.

    python scripts/bench/real_models.py                            # every method, the dev half
    python scripts/bench/real_models.py --only "wise, rules, test"  # a part, on the other half
    PUBLIC_SETS=FOLDER python scripts/bench/real_models.py --only "wise, zsRE, test"

The sets are in datasets/real: well-known facts, the same facts asked in chats, and statements
without a subject; and those of public_sets.py. Nothing is tuned on the half called test. Each part
makes a store of all facts of its set, at most MOST_FACTS. An answer counts in plain prompts if it
begins with the target, and in chats if its first sentence says it. Other prompts count if their
answer is that of the base, word for word.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from benchmark import Results, parser_of, run
from public_sets import FILES, HALVES, public_facts
from real_scope import rows
from workbench import Workbench

from editcli.files.corpus import read_corpus
from editcli.models.loading import load_base
from editcli.models.locations import SMOLLM2
from editors import Fact
from editors.evaluation.edit_scores import score_edits
from editors.evaluation.metrics import Rate
from editors.evaluation.readings import said
from editors.inference.edited_model import EditedModel
from editors.inference.generation import answers
from editors.methods.edit_state import EditState, Scalar

LAYER = 28  # of 30: what `init` chooses with profile=separate
METHODS: Mapping[str, tuple[str, Mapping[str, Scalar]]] = {
    "wise": ("wise", {"profile": "separate"}),
    "wise, robust": ("wise", {"scope": "sentence"}),
    "wise, paper": ("wise", {"profile": "paper"}),
    "in-context": ("in-context", {"scope": "sentence"}),
    "ft-m": ("ft-m", {}),
}
OWN_SETS = ("well-known", "chats", "rules")
MOST_FACTS = 100
KINDS = ("relation", "subject", "mention", "name", "time", "amount", "turn")
CHAT_TOKENS = 32  # of an answer


def facts_of(name: str, half: str) -> list[Fact]:
    if name in FILES:
        return public_facts(name, half)[:MOST_FACTS]
    name = "well-known" if name == "chats" else name
    return [Fact.from_dict(row) for row in rows(f"{name}-{half}.jsonl")]


def measured(method: str, name: str, half: str, _: Results) -> dict[str, Any]:
    registered, settings = METHODS[method]
    base = load_base(SMOLLM2, device="cpu", layer=LAYER)
    bench = Workbench.of(base, read_corpus(), registered, settings)
    facts = facts_of(name, half)
    started = time.process_time()
    applied = bench.apply(facts)
    result: dict[str, Any] = {
        "facts": len(facts),
        "cpu_seconds_an_edit": round((time.process_time() - started) / len(facts), 2),
    }
    if name == "chats":
        return result | _in_chats(bench, applied.state, facts, half)
    scores = score_edits(
        base, partial(bench.method.attach, applied.state), facts, teacher_forced=False
    )
    return result | {
        "reliability": _plain(scores.reliability),
        "generalization": _plain(scores.generalization),
        "near": _plain(scores.near),
        "far": _plain(scores.far),
        "kinds": {kind: _plain(rate) for kind, rate in scores.kinds.items() if rate.n},
        "opened_in_scope": _plain(scores.opened_in_scope),
        "opened_out_of_scope": _plain(scores.opened_out_of_scope),
    }


def _in_chats(
    bench: Workbench, state: EditState, facts: Sequence[Fact], half: str
) -> dict[str, Any]:
    asked = [*rows(f"chats-{half}.jsonl")]
    chats = [row["turns"] for row in asked]
    by_prompt = {fact.prompt: fact for fact in facts}
    before = answers(EditedModel.unedited(bench.method.base), chats, CHAT_TOKENS)
    with bench.method.attach(state) as model:
        after = answers(model, chats, CHAT_TOKENS)
    right: dict[str, list[bool]] = defaultdict(list)
    for row, old, new in zip(asked, before, after, strict=True):
        fact = by_prompt[row["fact"]]
        if row["kind"] is None:
            right["generalization"].append(said(new, fact.target, fact.ground_truth))
        else:
            right[row["kind"]].append(new.text == old.text)
    near = [same for kind in KINDS for same in right[kind]]
    return {
        "generalization": _plain(Rate.of(right["generalization"])),
        "near": _plain(Rate.of(near)),
        "kinds": {kind: _plain(Rate.of(right[kind])) for kind in KINDS if right[kind]},
    }


def _plain(rate: Rate) -> dict[str, Any]:
    return {
        "value": round(rate.value, 4),
        "n": rate.n,
        "ci95": [round(rate.low, 4), round(rate.high, 4)],
    }


def page(results: Results) -> str:
    kinds = [kind for kind in KINDS if any(kind in part["kinds"] for part in results.values())]
    columns = ["reliability", "generalization", "near", *kinds, "far", "claimed", "wrongly claimed"]
    lines = [
        "# Edits on a real language model",
        "",
        "Written by `scripts/bench/real_models.py` (`make bench-real`) on SmolLM2-135M-Instruct,",
        f"float32, CPU, block {LAYER} of 30 edited. Each row is one store with all facts of its",
        "set. A cell is a share, and how many prompts it is of. *Generalization*: other wordings",
        "of the question; in chats, all questions. *Near*: other prompts with the base's answer,",
        "over all kinds (docs/facts.md). *Claimed*: prompts of facts that an edit opens. Settings",
        "were chosen on the half `dev`; the half `test` was looked at once. The sets are in",
        "`datasets/real`, written by another hand than the corpus that the scope learns from, or",
        "the first rows of public files (`scripts/bench/public_sets.py`).",
        "`wise` is `profile=separate`; `wise, robust` and `in-context` have the same scope signal.",
        "Seconds are CPU time of one thread, with other work beside it.",
        "",
        f"| method, set, half | {' | '.join(columns)} | s an edit |",
        f"|{'---|' * (len(columns) + 2)}",
    ]
    for part, result in results.items():
        found = {**result, **result["kinds"]}
        found["claimed"] = result.get("opened_in_scope")
        found["wrongly claimed"] = result.get("opened_out_of_scope")
        cells = [_cell(found.get(column)) for column in columns]
        lines.append(f"| {part} | {' | '.join(cells)} | {result['cpu_seconds_an_edit']} |")
    return "\n".join(lines) + "\n"


def _cell(rate: Mapping[str, Any] | None) -> str:
    return f"{rate['value']:.3f} ({rate['n']})" if rate and rate["n"] else ""


PARTS = {
    f"{method}, {name}, {half}": partial(measured, method, name, half)
    for method in METHODS
    for name in (*OWN_SETS, *FILES)
    for half in HALVES
}

if __name__ == "__main__":
    args = parser_of(__doc__.splitlines()[0], PARTS).parse_args()
    torch.set_num_threads(1)
    run(
        args,
        PARTS,
        args.only or [f"{method}, {name}, dev" for method in METHODS for name in OWN_SETS],
        "real-models",
        page,
    )
