"""Measure what editing a real model costs, SmolLM2-135M-Instruct on a CPU; write
docs/real-costs.md.

    python scripts/bench/real_costs.py                  # every part
    python scripts/bench/real_costs.py --only apply     # one of them

Commands run as processes of their own, imports included, with as many threads as they choose. The
machine should have nothing beside it. A base that is not known is a copy with other weights.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmark import Results, parser_of, run
from daily import seconds_of
from real_models import LAYER, bench_of, facts_of
from real_scope import rows
from speed import peak_memory, timed

from editcli.models.loading import load_base
from editcli.models.locations import SMOLLM2
from editors.evaluation.edit_scores import SENTENCE_TOKENS, score_edits
from editors.inference.batching import Budget, in_batches
from editors.inference.generation import answers, decode
from editors.methods.edit_state import EditState
from editors.model.base_model import Base
from editors.model.tokenization import Row, answer_limit, encode_prompts

TURNS = 3
CHECKED, OPENED = 20, 5  # facts
EDITCLI = (sys.executable, "-m", "editcli")


def init(known: bool, _: Results) -> dict[str, Any]:
    """`init`, in seconds, of smollm2 or of a base of its size that no calibration is for."""
    with TemporaryDirectory() as folder:
        model = SMOLLM2 if known else str(_other_weights(Path(folder, "model")))
        stores = [str(Path(folder, f"store{turn}")) for turn in range(TURNS)]
        took = [seconds_of([*EDITCLI, "init", model, "--store", store]) for store in stores]
        peak = peak_memory([*EDITCLI, "init", model, "--store", str(Path(folder, "again"))])
        return {"seconds": round(statistics.median(took), 1), "peak": peak}


def apply(_: Results) -> dict[str, Any]:
    """`apply` of the well-known facts of the dev half, and then `ask`."""
    with TemporaryDirectory() as folder:
        store = ["--store", str(Path(folder, "store"))]
        subprocess.run([*EDITCLI, "init", SMOLLM2, *store], check=True, capture_output=True)
        facts = [*rows("well-known-dev.jsonl")]
        file = Path(folder, "facts.jsonl")
        file.write_text("".join(json.dumps(fact) + "\n" for fact in facts), encoding="utf-8")
        started = time.perf_counter()
        peak = peak_memory([*EDITCLI, "apply", str(file), *store, "--quiet"], (0, 1))
        took = time.perf_counter() - started
        asked = [seconds_of([*EDITCLI, "ask", facts[0]["prompt"], *store]) for _ in range(TURNS)]
        return {
            "facts": len(facts),
            "seconds_an_edit": round(took / len(facts), 2),
            "peak": peak,
            "ask_seconds": round(statistics.median(asked), 1),
        }


def check(_: Results) -> dict[str, Any]:
    """What `check` does, beside plain batched generation of the same prompts and tokens."""
    bench, facts = bench_of("wise"), facts_of("well-known", "dev")[:CHECKED]
    base, state = bench.method.base, bench.apply(facts).state
    expected = [text for fact in facts for text in (fact.target, fact.ground_truth)]
    expected += [probe.answer for fact in facts for probe in fact.locality]
    tokens = answer_limit(base.tokenizer, expected)
    local = list(dict.fromkeys(probe.prompt for fact in facts for probe in fact.locality))
    asked = list(dict.fromkeys(p for fact in facts for p in (fact.prompt, *fact.rephrases)))

    def scored() -> None:
        score_edits(base, partial(bench.method.attach, state), facts)

    def generated() -> None:
        for _ in ("before", "after"):
            _generate(base, local, tokens)
        _generate(base, asked, tokens + SENTENCE_TOKENS)

    pairs = [(timed(scored)[0], timed(generated)[0]) for _ in range(TURNS)]
    return {
        "prompts": len(asked) + 2 * len(local),
        "seconds": round(statistics.median(ours for ours, _ in pairs), 1),
        "rival_seconds": round(statistics.median(plain for _, plain in pairs), 1),
        "ratio": round(statistics.median(ours / plain for ours, plain in pairs), 2),
    }


def answer(_: Results) -> dict[str, Any]:
    """Opening a store of some facts, and the first answer; the imports not counted."""
    bench, facts = bench_of("wise"), facts_of("well-known", "dev")[:OPENED]
    blobs = bench.method.save(bench.apply(facts).state)

    def opened() -> None:
        method = bench_of("wise").method
        with method.attach(method.open(EditState.from_blobs(blobs))) as model:
            answers(model, [facts[0].prompt], 8)

    return {"seconds": round(statistics.median(timed(opened)[0] for _ in range(TURNS)), 1)}


def _generate(base: Base, prompts: Sequence[str], tokens: int) -> None:
    """As a script with transformers would: batches of similar length, padded on the left."""
    encoded = encode_prompts(base.tokenizer, prompts)

    def of_batch(members: list[int]) -> list[None]:
        batch = base.batch([Row.of_prompt(encoded[i]) for i in members], side="left")
        decode(base, batch.ids, tokens, batch.mask)
        return [None] * len(members)

    in_batches([*map(len, encoded)], Budget(rows=32), of_batch)


def _other_weights(folder: Path) -> Path:
    """smollm2 with one weight changed, as a folder."""
    base = load_base(SMOLLM2, device="cpu", layer=LAYER)
    with torch.no_grad():
        next(base.model.parameters())[0, 0] += 1e-3
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


ROWS = {
    "init, known": (
        "| `init smollm2` | {seconds} s | 20 s |",
        "| its peak memory | {gib:.1f} GiB | |",
    ),
    "init, unknown": ("| `init` of an unknown base | {seconds} s | 150 s |",),
    "apply": (
        "| `apply` of {facts} facts, for each | {seconds_an_edit} s | 2 s |",
        "| its peak memory | {gib:.1f} GiB | |",
        "| `ask` | {ask_seconds} s | |",
    ),
    "answer": ("| opening a store and answering, no imports | {seconds} s | 5 s |",),
    "check": (
        "| `check` of {prompts} answers | {seconds} s | |",
        "| in plain generation of the same prompts and tokens | {ratio} | 1.5 |",
    ),
}
"""The rows of the page, by part."""


def page(results: Results) -> str:
    lines = [
        "# What editing a real model costs",
        "",
        "Written by `scripts/bench/real_costs.py` on SmolLM2-135M-Instruct, float32, with",
        f"{os.cpu_count()} CPU cores. Commands are processes of their own, imports included;",
        f"medians of {TURNS}.",
        "",
        "| | | bar |",
        "|---|---|---|",
    ]
    for part, templates in ROWS.items():
        if result := results.get(part):
            gib = result.get("peak", 0) / 2**30
            lines += [template.format(**result, gib=gib) for template in templates]
    return "\n".join(lines) + "\n"


PARTS = {
    "init, known": partial(init, True),
    "init, unknown": partial(init, False),
    "apply": apply,
    "answer": answer,
    "check": check,
}

if __name__ == "__main__":
    args = parser_of(__doc__.splitlines()[0], PARTS).parse_args()
    run(args, PARTS, args.only or list(PARTS), "real-costs", page)
