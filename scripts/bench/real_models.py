"""Measure edits on a real language model, SmolLM2-135M-Instruct; write docs/real-models.md.

    python scripts/bench/real_models.py                            # every method, the dev half
    python scripts/bench/real_models.py --only "wise, rules, test"  # a part, on the other half
    PUBLIC_SETS=FOLDER python scripts/bench/real_models.py --only "wise, zsRE, test"
    PUBLIC_SETS=FOLDER python scripts/bench/real_models.py --only "wise, zsRE, test, T=1000"

The sets are in datasets/real: well-known facts, the same facts asked in chats, and statements
without a subject; and those of public_sets.py. Nothing is tuned on the half called test. Each part
makes a store of all facts of its set, at most MOST_FACTS; with T=1 or T=10, several stores of so
many facts; with T=1000, one store that edits of datasets/atlas fill up, on which nothing is asked.
An answer counts in plain prompts if it begins with the target, and in chats if its first sentence
says it. Other prompts count if their answer is that of the base, word for word.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from benchmark import Results, parser_of, run
from public_sets import FILES, HALVES, public_facts
from real_scope import rows
from workbench import Workbench, atlas_facts

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
    "wise, low-rank": ("wise", {"profile": "separate", "memory": "low-rank"}),
    "wise, robust": ("wise", {"scope": "sentence"}),
    "wise, paper": ("wise", {"profile": "paper"}),
    "in-context": ("in-context", {"scope": "sentence"}),
    "ft-m": ("ft-m", {}),
}
OWN_SETS = ("well-known", "chats", "rules")
MOST_FACTS = 100
SIZES = (1, 10, 1000)  # other numbers of facts in a store
FACTS_IN_ALL = 40  # of several small stores
TIMED_PROMPTS = 32
KINDS = ("relation", "subject", "mention", "name", "time", "amount", "turn")
CHAT_TOKENS = 32  # of an answer in a chat
ANSWER_TOKENS = 8  # of an answer that is timed


def facts_of(name: str, half: str, most: int = MOST_FACTS) -> list[Fact]:
    if name in FILES:
        return public_facts(name, half)[:most]
    name = "well-known" if name == "chats" else name
    return [Fact.from_dict(row) for row in rows(f"{name}-{half}.jsonl")]


def bench_of(method: str) -> Workbench:
    """One of ``METHODS`` on SmolLM2-135M-Instruct."""
    base = load_base(SMOLLM2, device="cpu", layer=LAYER)
    return Workbench.of(base, read_corpus(), *METHODS[method])


def measured(method: str, name: str, half: str, size: int | None, _: Results) -> dict[str, Any]:
    """One store of all facts, or stores of ``size`` facts."""
    bench = bench_of(method)
    if size is None or size > MOST_FACTS:
        facts = facts_of(name, half, size or MOST_FACTS)
        more = atlas_facts("edits.jsonl")[: max(0, (size or 0) - len(facts))]
        return _of_store(bench, name, half, facts, more)
    facts = facts_of(name, half)[:FACTS_IN_ALL]
    starts = range(0, len(facts) - size + 1, size)
    return _pooled([_of_store(bench, name, half, facts[i : i + size]) for i in starts])


def _of_store(
    bench: Workbench, name: str, half: str, facts: Sequence[Fact], more: Sequence[Fact] = ()
) -> dict[str, Any]:
    """A store of ``facts`` and of ``more``, measured on ``facts``."""
    started = time.process_time()
    state = bench.apply([*more, *facts]).state
    count = len(facts) + len(more)
    took = (time.process_time() - started) / count
    result: dict[str, Any] = {"facts": count, "cpu_seconds_an_edit": round(took, 2)}
    blobs = bench.method.save(state)
    if shards := [len(blob) for name, blob in blobs.items() if name.startswith("shard-")]:
        result["bytes_a_shard"] = round(statistics.mean(shards))
    if name == "chats":
        return result | _in_chats(bench, state, facts, half)
    attach = partial(bench.method.attach, state)
    scores = score_edits(bench.method.base, attach, facts, teacher_forced=False)
    return result | {
        "reliability": _plain(scores.reliability),
        "generalization": _plain(scores.generalization),
        "near": _plain(scores.near),
        "far": _plain(scores.far),
        "kinds": {kind: _plain(rate) for kind, rate in scores.kinds.items() if rate.n},
        "opened_in_scope": _plain(scores.opened_in_scope),
        "opened_out_of_scope": _plain(scores.opened_out_of_scope),
        "seconds_an_answer": _answering(bench, state, [p for f in facts for p in f.rephrases]),
    }


def _answering(bench: Workbench, state: EditState, prompts: Sequence[str]) -> dict[str, float]:
    """The seconds of an answer to ``prompts``, one at a time, beside those of the base."""
    base, some = bench.method.base, prompts[:TIMED_PROMPTS]

    def mean(model: EditedModel) -> float:
        started = time.perf_counter()
        for prompt in some:
            answers(model, [prompt], ANSWER_TOKENS)
        return round((time.perf_counter() - started) / max(1, len(some)), 4)

    unedited = mean(EditedModel.unedited(base))
    with bench.method.attach(state) as model:
        return {"edited": mean(model), "base": unedited}


def _pooled(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of several stores, each prompt counted once."""
    first = results[0]

    def pooled(rates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        n = sum(rate["n"] for rate in rates)
        right = round(sum(rate["value"] * rate["n"] for rate in rates if rate["n"]))
        return _plain(Rate.of([1.0] * right + [0.0] * (n - right)))

    def mean(key: str) -> float:
        return round(statistics.mean(result[key] for result in results), 2)

    kinds = {kind for result in results for kind in result["kinds"]}
    rates = [key for key, value in first.items() if isinstance(value, dict) and "ci95" in value]
    return {
        "facts": first["facts"],
        "stores": len(results),
        "cpu_seconds_an_edit": mean("cpu_seconds_an_edit"),
        **{key: pooled([result[key] for result in results]) for key in rates},
        "kinds": {
            kind: pooled([r["kinds"][kind] for r in results if kind in r["kinds"]])
            for kind in KINDS
            if kind in kinds
        },
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
    scores = ["reliability", "generalization", "near", "far"]
    lines = [
        "# Edits on a real language model",
        "",
        "Written by `scripts/bench/real_models.py` (`make bench-real`) on SmolLM2-135M-Instruct,",
        f"float32, CPU, block {LAYER} of 30 edited. *T* is how many facts a store has; each row",
        "of the table is one store with all facts of its set, or several small ones. A cell is a",
        "share with its 95 % interval. *Generalization*: other wordings of the question; in chats,",
        "all questions. *Near*: other prompts with the base's answer, over all kinds",
        "(docs/facts.md). Settings were chosen on the half `dev`; the half `test` was measured",
        "with them, twice so far, and chose none. How rows of public sets are cleaned was mended",
        "after a first measurement of that half. The sets are in `datasets/real`, written by",
        "another hand than the corpus that the scope learns from, or the first rows of public",
        "files (`scripts/bench/public_sets.py`).",
        "A store of T=1000 is filled up with edits of `datasets/atlas`. `wise` is what `init`",
        "chooses (`profile=separate`); `wise, robust` and `in-context` have the same scope signal.",
        "`wise, low-rank` has `memory=low-rank`, so that its memories export as adapters of PEFT",
        f"(docs/python.md). {_sizes(results)}",
        "Seconds an edit are CPU time of one thread, with other work beside it; an answer has",
        f"{ANSWER_TOKENS} tokens, and its seconds stand beside those of the base.",
        "",
        f"| method, set, half | T | {' | '.join(scores)} | s an edit | s an answer |",
        f"|{'---|' * (len(scores) + 4)}",
    ]
    for part, result in results.items():
        cells = [_cell(result.get(score)) for score in scores]
        took = result.get("seconds_an_answer")
        answer = f"{took['edited']:.2f} / {took['base']:.2f}" if took else ""
        lines.append(
            f"| {_row(part)} | {result['facts']} | {' | '.join(cells)} "
            f"| {result['cpu_seconds_an_edit']:.2f} | {answer} |"
        )
    columns = [*kinds, "claimed", "wrongly claimed"]
    lines += [
        "",
        "Kinds of near prompts, and what edits open: *claimed*, of the prompts that ask a fact;",
        "*wrongly claimed*, of all others. A cell is a share, and of how many prompts it is.",
        "",
        f"| method, set, half | T | {' | '.join(columns)} |",
        f"|{'---|' * (len(columns) + 2)}",
    ]
    for part, result in results.items():
        found = {
            **result["kinds"],
            "claimed": result.get("opened_in_scope"),
            "wrongly claimed": result.get("opened_out_of_scope"),
        }
        cells = [_share(found.get(column)) for column in columns]
        lines.append(f"| {_row(part)} | {result['facts']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _sizes(results: Results) -> str:
    """How large the shards of each method are on disk."""
    sizes = {
        _row(part).rsplit(", ", 2)[0]: result["bytes_a_shard"] / 1000
        for part, result in results.items()
        if "bytes_a_shard" in result
    }
    listed = ", ".join(f"{size:.0f} kB (`{method}`)" for method, size in sizes.items())
    return f"A shard takes {listed} on disk." if listed else ""


def _row(part: str) -> str:
    """``part`` without the number of facts, which has a column of its own."""
    return part.partition(", T=")[0]


def _cell(rate: Mapping[str, Any] | None) -> str:
    if not rate or not rate["n"]:
        return ""
    low, high = rate["ci95"]
    return f"{rate['value']:.3f} ({low:.2f}-{high:.2f})"


def _share(rate: Mapping[str, Any] | None) -> str:
    return f"{rate['value']:.3f} ({rate['n']})" if rate and rate["n"] else ""


def _name(size: int | None) -> str:
    return "" if size is None else f", T={size}"


PARTS = {
    f"{method}, {name}, {half}{_name(size)}": partial(measured, method, name, half, size)
    for method in METHODS
    for name in (*OWN_SETS, *FILES)
    for half in HALVES
    for size in (None, *(() if name == "chats" else SIZES))
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
