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
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmark import Results, parser_of, run
from real_models import LAYER
from real_scope import rows
from speed import peak_memory
from workbench import Workbench

from editcli.files.corpus import read_corpus
from editcli.models.loading import load_base
from editcli.models.locations import SMOLLM2
from editors import Fact
from editors.evaluation.edit_scores import SENTENCE_TOKENS, score_edits
from editors.inference.batching import Budget, in_batches
from editors.inference.generation import answers, decode
from editors.methods.edit_state import EditState
from editors.model.base_model import Base
from editors.model.tokenization import Row, answer_limit, encode_prompts

TURNS = 3
CHECKED, OPENED = 20, 5  # facts
EDITCLI = (sys.executable, "-m", "editcli")
QUESTION = "What is the capital of France?"


def init(known: bool, _: Results) -> dict[str, Any]:
    """`init`, in seconds, of smollm2 or of a base of its size that no calibration is for."""
    with TemporaryDirectory() as folder:
        model = SMOLLM2 if known else str(_other_weights(Path(folder, "model")))
        stores = [str(Path(folder, f"store{turn}")) for turn in range(TURNS)]
        took = [_seconds([*EDITCLI, "init", model, "--store", store]) for store in stores]
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
        asked = [_seconds([*EDITCLI, "ask", facts[0]["prompt"], *store]) for _ in range(TURNS)]
        return {
            "facts": len(facts),
            "seconds_an_edit": round(took / len(facts), 2),
            "peak": peak,
            "ask_seconds": round(statistics.median(asked), 1),
        }


def check(_: Results) -> dict[str, Any]:
    """What `check` does, beside plain batched generation of the same prompts and tokens."""
    base = load_base(SMOLLM2, device="cpu", layer=LAYER)
    bench = Workbench.of(base, read_corpus(), "wise", {"profile": "separate"})
    facts = [Fact.from_dict(row) for row in rows("well-known-dev.jsonl")][:CHECKED]
    state = bench.apply(facts).state
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

    pairs = [(_timed(scored), _timed(generated)) for _ in range(TURNS)]
    return {
        "prompts": len(asked) + 2 * len(local),
        "seconds": round(statistics.median(ours for ours, _ in pairs), 1),
        "rival_seconds": round(statistics.median(plain for _, plain in pairs), 1),
        "ratio": round(statistics.median(ours / plain for ours, plain in pairs), 2),
    }


def answer(_: Results) -> dict[str, Any]:
    """Opening a store of some facts, and the first answer; the imports not counted."""
    base = load_base(SMOLLM2, device="cpu", layer=LAYER)
    bench = Workbench.of(base, read_corpus(), "wise", {"profile": "separate"})
    facts = [Fact.from_dict(row) for row in rows("well-known-dev.jsonl")][:OPENED]
    blobs = bench.method.save(bench.apply(facts).state)

    def opened() -> None:
        again = load_base(SMOLLM2, device="cpu", layer=LAYER)
        method = Workbench.of(again, read_corpus(), "wise", {"profile": "separate"}).method
        with method.attach(method.open(EditState.from_blobs(blobs))) as model:
            answers(model, [facts[0].prompt], 8)

    return {"seconds": round(statistics.median(_timed(opened) for _ in range(TURNS)), 1)}


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


def _seconds(command: Sequence[str]) -> float:
    return _timed(lambda: subprocess.run(command, check=True, capture_output=True))


def _timed(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


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
    lines += [text for part, text in _rows(results) if part in results]
    return "\n".join(lines) + "\n"


def _rows(results: Results) -> list[tuple[str, str]]:
    """By part, a row of the table."""
    known, unknown, applied, first, checked = (results.get(p, defaultdict(int)) for p in PARTS)
    edits, ratio = applied["seconds_an_edit"], checked["ratio"]
    return [
        ("init, known", f"| `init smollm2` | {known['seconds']} s | 20 s |"),
        ("init, known", f"| its peak memory | {_gib(known['peak'])} | |"),
        (
            "init, unknown",
            f"| `init` of an unknown base | {unknown['seconds']} s | 150 s |",
        ),
        ("apply", f"| `apply` of {applied['facts']} facts, for each | {edits} s | 2 s |"),
        ("apply", f"| its peak memory | {_gib(applied['peak'])} | |"),
        ("apply", f"| `ask` | {applied['ask_seconds']} s | |"),
        ("answer", f"| opening a store and answering, no imports | {first['seconds']} s | 5 s |"),
        ("check", f"| `check` of {checked['prompts']} answers | {checked['seconds']} s | |"),
        ("check", f"| in plain generation of the same prompts and tokens | {ratio} | 1.5 |"),
    ]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


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
