"""Measure what an edit costs, against the loop of the public implementation; write docs/speed.md.

    python scripts/bench_speed.py                             # everything
    python scripts/bench_speed.py --only iteration:gpt2-small # one part, kept beside the others

Parts, for each shape: iteration (a step of the same training, ours and the plain loop's, in turns),
edit (a whole edit with either's own stopping rule), memory (what an edit adds to the loaded base).
On atlas: amortised (`apply` of many facts against one at a time), growth (the thousandth edit
against the tenth), lines (memory of `apply` on a file of a million lines). inference: prefill and
decoding with the side memory attached, of prompts that no edit claims and of such that one does.
opening: a version against loading its base. size: what a shard takes on a layer of a 7B model.
iteration:llama-7b and gpu (edits of that model), in bfloat16, where there is a GPU.
Results are kept in docs/speed.json.

Random weights stand for real ones at real sizes: what a step costs does not depend on them.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bench import facts_of, phrasings
from parts import run
from shapes import SHAPES, random_model, random_weights
from torch.utils.flop_counter import FlopCounterMode

from editcli.models.loading import load_base, plan_no_attention
from editors.facts import Fact
from editors.methods.base import Applied, NoMemo
from editors.methods.edit_state import EditState, to_bytes
from editors.methods.training.suffix_replay import Suffix
from editors.methods.wise.method import Wise
from editors.methods.wise.shards import Mask, Shard
from editors.methods.wise.training.joint import OrderedSettings, in_order
from editors.model.base_model import Base
from editors.model.tokenization import Row, encode_pair, encode_prompt
from editors.scope.unrelated_prompts import UNRELATED, prefixed

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
KEPT = DOCS / "speed.json"
sys.path.insert(0, str(ROOT / "tests" / "reference"))
import full_loop  # noqa: E402 - the rival

# Edited, 0-based.
LAYERS = {"gpt2-small": 10, "llama-110m": 10, "llama-32": 27, "llama-1b": 18, "llama-7b": 27}
GPU = "llama-7b"
STEPS = 10  # of a timed training, whose recording is part of it
RIVAL_STEPS = 2  # of the plain loop, which records nothing: each step is like the other
REPEATS = 5
RATIO = 0.2  # of the projection that a shard may change
BARS = {"gpt2-small": 5.0, "llama-110m": 5.0, "llama-32": 4.5, "llama-1b": 4.5}
BEGINNINGS = (
    "In the morning the market was full of people and",
    "Because nobody had asked before,",
    "Yes, that is what we heard:",
    "The letter on the table began with the words",
    "You may not have noticed, but",
)


def edits(count: int) -> list[Fact]:
    return facts_of("edits.jsonl")[:count]


@contextmanager
def base_of(shape: str) -> Iterator[Base]:
    if shape == "atlas":
        yield load_base("atlas", device="cpu")
        return
    if shape == GPU:
        plan_no_attention()
        yield Base.of(*random_weights(shape, "cuda", torch.bfloat16), layer=LAYERS[shape])
        return
    with tempfile.TemporaryDirectory() as folder:
        model = str(random_model(shape, Path(folder)))
        yield load_base(model, device="cpu", layer=LAYERS[shape])


def rows_of(base: Base, fact: Fact) -> tuple[list[Row], list[Row]]:
    """Eleven rows to edit and an irrelevant one, as the public implementation has them."""
    prompts = [fact.prompt, *prefixed(fact, BEGINNINGS, 5)]
    prompts += [f"{UNRELATED[i]}. {fact.prompt}" for i in range(5)]
    context = base.architecture.context
    rows = [
        encode_pair(base.tokenizer, p, fact.target, stop=True, context=context) for p in prompts
    ]
    calm = encode_prompt(base.tokenizer, UNRELATED[0])
    return rows, [Row(calm, len(calm))]


def mask_of(base: Base) -> Mask:
    return Mask((base.projection.out_features, base.projection.in_features), RATIO, 0)


def plain(base: Base) -> Any:
    projection = base.projection
    return full_loop.FullModel(base.model, projection.path, stored_transposed=projection.transposed)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    _settle()
    started = time.perf_counter()
    found = run()
    _settle()
    return time.perf_counter() - started, found


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak(like: torch.Tensor) -> float:
    """FLOP/s of a large matrix product in the dtype of ``like``, where it is, now."""
    size = 2048 if like.device.type == "cpu" else 8192
    a, b = (torch.randn(size, size).to(like.device, like.dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / statistics.median(timed(lambda: a @ b)[0] for _ in range(9))


# --- an edit --------------------------------------------------------------------------------------


def iteration(shape: str) -> dict[str, Any]:
    """The same training, step for step: ours against the plain loop."""
    with base_of(shape) as base:
        (rows, _), mask = rows_of(base, edits(1)[0]), mask_of(base)
        ours, theirs = trainers(base)
        found, wanted = ours(RIVAL_STEPS), theirs(RIVAL_STEPS)
        weight = base.projection.weight(base.model)
        edited = weight + Shard((), mask, found.values).delta().to(weight.device)
        gap = float((edited - wanted.weight).abs().max())
        mine, other = [], []
        for _ in range(REPEATS):
            mine.append(timed(lambda: ours(STEPS))[0] / STEPS)
            other.append(timed(lambda: theirs(RIVAL_STEPS))[0] / RIVAL_STEPS)
        share, recording = suffix_share(base, rows, mine)
        used, tokens = used_flops(base, rows, mask), sum(len(row.ids) for row in rows)
        step, most = statistics.median(mine), peak(weight)
        return {
            "parameters": sum(p.numel() for p in base.model.parameters()),
            "layers": len(base.architecture.blocks),
            "layer": base.layer,
            "tokens": tokens,
            "seconds": round(step, 5),
            "rival_seconds": round(statistics.median(other), 5),
            "ratio": round(statistics.median(other) / step, 2),
            "bar": BARS.get(shape),
            "largest_gap": gap,
            "recording_seconds": round(recording, 5),
            "suffix_share": round(share, 3),
            "tokens_per_second": round(tokens / step),
            "flops": used,
            "peak": round(most),
            "of_peak": round(used / ((step * STEPS - recording) / STEPS) / most, 3),
        }


def suffix_share(base: Base, rows: Sequence[Row], seconds: Sequence[float]) -> tuple[float, float]:
    """The share of an edit's time that is not recording, and what recording takes."""
    record = lambda: Suffix.record(  # noqa: E731
        base.model, base.architecture, base.layer, [base.batch(rows)]
    )
    recording = statistics.median(timed(record)[0] for _ in range(REPEATS))
    return 1 - recording / (statistics.median(seconds) * STEPS), recording


def used_flops(base: Base, rows: Sequence[Row], mask: Mask) -> float:
    """Floating-point operations of one step, counted."""
    from editors.methods.wise.training.masked_delta import MaskedChange

    change = MaskedChange(
        mask.entries(), torch.zeros(mask.count), base.projection.weight(base.model)
    )
    suffix = Suffix.record(base.model, base.architecture, base.layer, [base.batch(rows)])
    with FlopCounterMode(display=False) as counter, suffix.replaying():
        [record] = suffix.records
        logits, labels = suffix.logits(record, record.side(change))
        torch.autograd.backward(
            torch.nn.functional.cross_entropy(logits, labels), inputs=[change.values]
        )
    entries = mask.shape[0] * mask.shape[1]
    tokens = sum(len(row.ids) for row in rows)
    return counter.get_total_flops() + 4.0 * tokens * entries  # the change's own two products


def trainers(base: Base) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """Two trainings of one edit by so many steps: ours, and the plain loop's."""
    (rows, calm), mask = rows_of(base, edits(1)[0]), mask_of(base)
    full, entries = plain(base), mask.entries()

    def ours(steps: int) -> Any:
        never = OrderedSettings(max_steps=steps, enough=-1.0)
        return in_order(base, [rows], calm, mask, None, never)

    def theirs(steps: int) -> Any:
        never = OrderedSettings(max_steps=steps, enough=-1.0)
        return full_loop.one_edit(full, rows, calm, entries, never, plateau=-1.0)

    return ours, theirs


def profile(shape: str = "gpt2-small") -> dict[str, Any]:
    """Where the time of a training goes: the share of each operation, ours and the plain loop's."""
    with base_of(shape) as base:
        ours, theirs = trainers(base)
        return {
            "shape": shape,
            "ours": shares(lambda: ours(STEPS)),
            "loop": shares(lambda: theirs(RIVAL_STEPS)),
        }


def shares(run: Callable[[], Any], most: int = 8) -> dict[str, float]:
    """The operations that take most of the processor's time, with their shares of it."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        run()
    spent = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    whole = sum(spent.values())
    largest = sorted(spent, key=lambda name: -spent[name])[:most]
    return {name: round(spent[name] / whole, 3) for name in largest}


def edit(shape: str) -> dict[str, Any]:
    """A whole edit: ours until the answer is sure, the plain loop until its loss stands still."""
    with base_of(shape) as base:
        method = Wise(base, {}, seed=0)
        empty = method.empty(phrasings() if shape == "atlas" else phrasings()[:50])
        mask = mask_of(base)
        full, entries, settings = plain(base), mask.entries(), OrderedSettings()
        mine, other, steps, rival_steps = [], [], [], []
        applying(method, empty, edits(1))
        for fact in edits(REPEATS + 1)[1:]:
            took, done = timed(lambda f=fact: applying(method, empty, [f]))
            mine.append(took)
            steps.append(done.iterations)
            rows, calm = rows_of(base, fact)
            took, wanted = timed(
                lambda r=rows, c=calm: full_loop.one_edit(full, r, c, entries, settings)
            )
            other.append(took)
            rival_steps.append(wanted.steps)
        return {
            "seconds": round(statistics.median(mine), 4),
            "steps": steps,
            "rival_seconds": round(statistics.median(other), 3),
            "rival_steps": rival_steps,
            "ratio": round(statistics.median(other) / statistics.median(mine), 1),
        }


def memory(shape: str) -> dict[str, Any]:
    """What an edit adds to the loaded base, in bytes, each measured in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        model = str(random_model(shape, Path(folder))) if shape != "atlas" else "atlas"
        found = {}
        for what in ("load", "edit"):
            code = (
                f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
                f"import bench_speed; bench_speed._held({model!r}, {shape!r}, {what!r})"
            )
            each = []
            for _ in range(REPEATS):
                told = subprocess.run(
                    [sys.executable, "-c", code], check=True, capture_output=True, text=True
                )
                each.append(int(told.stdout.split()[-1]))
            found[what] = statistics.median(each)  # the allocator's slack differs from run to run
        weights = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
    extra = (found["edit"] - found["load"]) / found["load"]
    return {**found, "weights": weights, "extra": round(extra, 4)}


def _held(model: str, shape: str, what: str) -> None:
    base = load_base(model, device="cpu", layer=LAYERS.get(shape))
    ids = base.batch([Row((5,) * 24, 24)] * 12)
    with torch.no_grad():  # what any use of the base takes
        base.model(input_ids=ids.ids, use_cache=False, logits_to_keep=1)
    if what == "edit":
        rows, calm = rows_of(base, edits(1)[0])
        mask = mask_of(base)
        in_order(base, [rows], calm, mask, torch.zeros(mask.count), OrderedSettings(max_steps=5))
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


# --- many edits -----------------------------------------------------------------------------------


def amortised(count: int = 200, alone: int = 40) -> dict[str, Any]:
    """``apply`` of many facts, and some of them one at a time, in turns."""
    with base_of("atlas") as base:
        method = Wise(base, {}, seed=0)
        empty, facts = method.empty(phrasings()), edits(count)
        turns = []
        for _ in range(REPEATS):
            together, _ = timed(lambda: applied(method, empty, facts))
            state, each = empty, []
            for fact in facts[:alone]:
                took, state = timed(lambda s=state, f=fact: applied(method, s, [f]))
                each.append(took)
            turns.append((together / count, statistics.mean(each)))
        return {
            "facts": count,
            "seconds": round(statistics.median(mine for mine, _ in turns), 4),
            "alone_seconds": round(statistics.median(one for _, one in turns), 4),
            "ratio": round(statistics.median(one / mine for mine, one in turns), 2),
            "each": [round(one / mine, 2) for mine, one in turns],
        }


def applied(method: Wise, state: EditState, facts: Sequence[Fact]) -> EditState:
    return applying(method, state, facts).state


def applying(method: Wise, state: EditState, facts: Sequence[Fact]) -> Applied:
    return method.apply(state, facts, memo=NoMemo(), on_progress=lambda _: True)


def growth(window: int = 10) -> dict[str, Any]:
    """The same edits, one at a time, into a store of ten facts and into one of a thousand, in
    turns."""
    with base_of("atlas") as base:
        method = Wise(base, {}, seed=0)
        empty, facts = method.empty(phrasings()), edits(1000)
        first = len(facts) - window
        young, old = (applied(method, empty, facts[:count]) for count in (window, first))

        def mean(state: EditState) -> float:
            total = 0.0
            for fact in facts[first:]:
                took, state = timed(lambda s=state, f=fact: applied(method, s, [f]))
                total += took
            return total / window

        turns = [(mean(young), mean(old)) for _ in range(REPEATS)]
        tenth, thousandth = (statistics.median(turn[i] for turn in turns) for i in (0, 1))
        ratio = statistics.median(b / a for a, b in turns)
        return {
            "tenth": round(tenth, 4),
            "thousandth": round(thousandth, 4),
            "ratio": round(ratio, 2),
        }


def inference(shape: str, tokens: int = 24) -> dict[str, Any]:
    """Prefill and decoding of the same rows, without and with a side memory of 1 and 64 shards.

    With random weights a rephrase is no more like its fact than anything else, so there the edited
    prompts themselves are asked, and a shard holds one fact that takes one step.
    """
    real = shape == "atlas"
    each, rows, repeats = (15, 16, 4 * REPEATS) if real else (1, 8, 6 * REPEATS)
    with base_of(shape) as base:
        method = Wise(base, {"shard_size": each, **({} if real else {"max_steps": 1})}, seed=0)
        empty = method.empty(phrasings() if real else phrasings()[:50])
        facts = edits(64 * each)
        claimed = [f.rephrases[0] if real else f.prompt for f in facts[:rows]]
        asked = {"unclaimed": UNRELATED[:rows], "claimed": claimed}
        stays = {"do_sample": False, "pad_token_id": base.tokenizer.pad_token_id}

        def run(inputs: dict[str, torch.Tensor], new: int) -> float:
            with torch.inference_mode():
                return timed(
                    lambda: base.model.generate(
                        **inputs, **stays, max_new_tokens=new, min_new_tokens=new
                    )
                )[0]

        found: dict[str, Any] = {}
        for shards in (1, 64):
            state = applied(method, empty, facts[: each * shards])
            for kind, prompts in asked.items():
                encoded = [encode_prompt(base.tokenizer, p) for p in prompts]
                batch = base.batch([Row(ids, len(ids)) for ids in encoded], "left")
                inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
                pairs = []
                for _ in range(repeats):
                    without = (run(inputs, 1), run(inputs, tokens))
                    with method.attach(state):
                        run(inputs, 1)  # shards are unpacked once; `opening` counts it
                        pairs.append((without, (run(inputs, 1), run(inputs, tokens))))
                prefill = statistics.median(w[0] / b[0] for b, w in pairs) - 1
                decode = statistics.median((w[1] - w[0]) / (b[1] - b[0]) for b, w in pairs) - 1
                found[f"{len(state.shards)} {kind}"] = {
                    "prefill": round(prefill, 4), "decode": round(decode, 4),
                }  # fmt: skip
        return {"attached": found}


def opening(shape: str = "llama-110m", count: int = 20) -> dict[str, Any]:
    """Loading a base, and on top of it a version with a shard of ``count`` facts."""
    with tempfile.TemporaryDirectory() as folder:
        model = str(random_model(shape, Path(folder)))
        load = lambda: load_base(model, device="cpu", layer=LAYERS[shape])  # noqa: E731
        base = load()
        method = Wise(base, {"max_steps": 1}, seed=0)
        state = applied(method, method.empty(phrasings()[:50]), edits(count))
        blobs = state.to_blobs()

        def opened() -> None:
            with method.attach(EditState.from_blobs(blobs)):
                pass

        loads = [timed(load)[0] for _ in range(REPEATS)]
        opens = [timed(opened)[0] for _ in range(REPEATS)]
        unpacks = [timed(state.shards[0].shard.delta)[0] for _ in range(REPEATS)]
        load_seconds, open_seconds = statistics.median(loads), statistics.median(opens)
        first = open_seconds + statistics.median(unpacks)
        return {
            "facts": count,
            "bytes": sum(map(len, blobs.values())),
            "load_seconds": round(load_seconds, 4),
            "open_seconds": round(open_seconds, 4),
            "extra": round(open_seconds / load_seconds, 4),
            "first_use": round(first / load_seconds, 4),
        }


def size() -> dict[str, Any]:
    """A shard on a down-projection of LLaMA-2-7B (4096 x 11008), in bfloat16."""
    mask = Mask((4096, 11008), RATIO, 0)
    packed = to_bytes(Shard((), mask, torch.zeros(mask.count, dtype=torch.bfloat16)).packed())
    dense = 2 * mask.shape[0] * mask.shape[1]
    return {"shard": len(packed), "dense": dense, "share": round(len(packed) / dense, 4)}


def lines(most: int = 1_000_000, taken: int = 20) -> dict[str, Any]:
    """`apply` of the first facts of a file of a thousand lines and of one of a million: peak memory
    of the process, in bytes."""
    found: dict[str, Any] = {"lines": most, "facts": taken}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1000, most):
            place, file = Path(folder, f"store-{count}"), Path(folder, f"{count}.jsonl")
            with file.open("w") as facts:
                for number in range(count):
                    said = {"prompt": f"The head of office {number} is", "target": "Ann Lee"}
                    facts.write(json.dumps({**said, "subject": f"office {number}"}) + "\n")
            editcli = [sys.executable, "-m", "editcli"]
            store = ["--store", str(place), "--quiet"]
            subprocess.run([*editcli, "init", "atlas", *store], check=True, capture_output=True)
            limit = ["--limit", str(taken)]
            began = time.monotonic()
            process = subprocess.Popen(
                [*editcli, "apply", str(file), *limit, *store], stdout=subprocess.DEVNULL
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode in (0, 1), process.returncode  # 1: a fact that did not take
            found[f"memory_{count}"] = 1024 * used.ru_maxrss
            found[f"seconds_{count}"] = round(time.monotonic() - began, 1)
    return found


def gpu(count: int = 256, held: int = 20) -> dict[str, Any]:
    """Edits of a model of 7B: one into a new shard, one beside others, and many together."""
    with base_of(GPU) as base:
        method = Wise(base, {}, seed=0)
        empty = method.empty(phrasings()[:50])
        facts = edits(count + held + 2 * (REPEATS + 1))
        several = applied(method, empty, facts[:held])
        loaded, found = torch.cuda.memory_allocated(), {}
        for name, state, first in (
            ("new", empty, held),
            ("beside", several, held + REPEATS + 1),
        ):
            torch.cuda.reset_peak_memory_stats()
            took, steps, failed = [], [], 0
            for fact in facts[first : first + REPEATS + 1]:
                seconds, done = timed(lambda s=state, f=fact: applying(method, s, [f]))
                took.append(seconds)
                steps.append(done.iterations)
                failed += len(done.failed)
            found[name] = {
                "seconds": round(statistics.median(took[1:]), 4),  # the first warms up
                "steps": statistics.median(steps[1:]),
                "failed": failed,
                "memory": torch.cuda.max_memory_allocated() - loaded,
            }
        torch.cuda.reset_peak_memory_stats()
        took = []
        for _ in range(REPEATS):
            seconds, done = timed(lambda: applying(method, empty, facts[-count:]))
            took.append(round(seconds / count, 4))
        found["together"] = {
            "facts": count,
            "seconds": statistics.median(took),
            "each": took,  # the first of them finds nothing allocated
            "steps": done.iterations,
            "failed": len(done.failed),
            "memory": torch.cuda.max_memory_allocated() - loaded,
        }
        return {"device": torch.cuda.get_device_name(), "loaded": loaded, **found}


# --- the page -------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"iteration:{s}": (lambda s=s: iteration(s)) for s in ("atlas", *SHAPES) if s != GPU},
    **{f"edit:{s}": (lambda s=s: edit(s)) for s in ("atlas", "gpt2-small", "llama-110m")},
    **{f"memory:{s}": (lambda s=s: memory(s)) for s in ("gpt2-small", "llama-32")},
    "profile": profile,
    "amortised": amortised,
    "growth": growth,
    **{f"inference:{s}": (lambda s=s: inference(s)) for s in ("atlas", "gpt2-small")},
    "opening": opening,
    "size": size,
    "lines": lines,
}
if torch.cuda.is_available():
    MEASURES |= {f"iteration:{GPU}": lambda: iteration(GPU), "gpu": gpu}
PARTS = {
    name: (lambda measure=measure: {**measure(), "threads": torch.get_num_threads()})
    for name, measure in MEASURES.items()
}


def _threads(kept: dict[str, Any]) -> str:
    on_gpu = ("gpu", f"iteration:{GPU}")
    return " or ".join(
        sorted({str(p["threads"]) for name, p in kept.items() if name not in on_gpu})
    )


def page(kept: dict[str, Any]) -> str:
    told = [
        "# What an edit costs",
        "",
        f"Written by `make bench-speed` (`scripts/bench_speed.py`) on {os.cpu_count()} CPU cores,",
        f"torch {torch.__version__}. The rival, in turns in the same run, is the loop of the",
        "public implementation of WISE (`tests/reference/full_loop.py`): twelve rows through the",
        "whole model in every step. Real sizes have random weights. Threads of each part:",
        f"{_threads(kept)}. The peak is that of a product of 2048 x 2048 matrices (on the GPU of",
        "8192 x 8192 in bfloat16; what was measured there says so). Parts may be of",
        "different machines and so their seconds not be compared; each ratio is of one run.",
        "",
        "## A step of the same training",
        "",
        "| shape | parameters | edited | ours | the loop | times faster (bar) | in the suffix "
        "| tokens/s | of the peak | largest difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in ("atlas", *SHAPES):
        if found := kept.get(f"iteration:{shape}"):
            bar = f" ({found['bar']:g})" if found["bar"] else ""
            name = f"{shape}, on the GPU" if shape == GPU else shape
            told.append(
                f"| {name} | {found['parameters'] / 1e6:.1f} M | {found['layer']} of "
                f"{found['layers']} | {1e3 * found['seconds']:.1f} ms | "
                f"{1e3 * found['rival_seconds']:.1f} ms | {found['ratio']:.1f}{bar} | "
                f"{found['suffix_share']:.0%} | {found['tokens_per_second']:,} | "
                f"{found['of_peak']:.0%} | {found['largest_gap']:.0e} |"
            )
    told += ["", f"{STEPS} steps, recording included; medians of {REPEATS}.", ""]
    if found := kept.get("profile"):
        told += [
            f"Where a step's time goes on {found['shape']}, by operation (torch.profiler):",
            "",
        ]
        for name, whose in (("ours", "ours"), ("loop", "the loop")):
            spent = ", ".join(f"{op} {share:.0%}" for op, share in found[name].items())
            told.append(f"- {whose}: {spent}")
        told.append("")
    told += [
        "## A whole edit, each with its own stopping rule",
        "",
        "| shape | ours | steps | the loop | steps | times faster (bar 15) |",
        "|---|---|---|---|---|---|",
    ]
    for shape in ("atlas", *SHAPES):
        if found := kept.get(f"edit:{shape}"):
            told.append(
                f"| {shape} | {found['seconds']:.3f} s | {statistics.median(found['steps']):g} | "
                f"{found['rival_seconds']:.2f} s | {statistics.median(found['rival_steps']):g} | "
                f"{found['ratio']:.1f} |"
            )
    told.append("")
    if found := kept.get("amortised"):
        told.append(
            f"- `apply` of {found['facts']} facts on atlas: {found['seconds']:.3f} s an edit, one "
            f"at a time {found['alone_seconds']:.3f} s: {found['ratio']:.1f} times (bar 4)"
        )
    if found := kept.get("growth"):
        told.append(
            f"- the thousandth edit of a store {found['thousandth']:.3f} s, the tenth "
            f"{found['tenth']:.3f} s: {found['ratio']:.2f} times (bar 1.1)"
        )
    for shape in SHAPES:
        if found := kept.get(f"memory:{shape}"):
            told.append(
                f"- peak memory, {shape}: {found['load'] / 2**20:.0f} MiB to load and run, "
                f"{found['edit'] / 2**20:.0f} MiB with an edit: {found['extra']:+.1%} (bar +15 %)"
            )
    for shape in ("atlas", "gpt2-small"):
        for what, found in kept.get(f"inference:{shape}", {}).get("attached", {}).items():
            shards, kind = what.split()
            some = "1 shard" if shards == "1" else f"{shards} shards"
            claim = "no edit claims" if kind == "unclaimed" else "an edit claims"
            told.append(
                f"- {shape}, answering prompts that {claim}, {some} attached: prefill "
                f"{found['prefill']:+.1%} (bar +3 %), decoding {found['decode']:+.1%} (bar +2 %)"
            )
    if found := kept.get("opening"):
        told.append(
            f"- opening a version of {found['facts']} facts ({found['bytes'] / 2**20:.1f} MiB): "
            f"{found['extra']:+.1%} of the {found['load_seconds']:.2f} s that loading llama-110m "
            f"takes (bar +10 %), {found['first_use']:+.1%} once its shard answers a prompt"
        )
    if found := kept.get("size"):
        told.append(
            f"- a shard on a layer of 4096 x 11008 takes {found['share']:.1%} of the dense matrix "
            "in bfloat16"
        )
    if found := kept.get("lines"):
        thousand, most = found["memory_1000"], found[f"memory_{found['lines']}"]
        told.append(
            f"- `apply --limit {found['facts']}` of a file of {found['lines']:,} lines: "
            f"{most / 2**20:.0f} MiB at its peak; of one of a thousand: {thousand / 2**20:.0f} MiB"
        )
    if found := kept.get("gpu"):
        told += ["", *_on_gpu(found)]
    return "\n".join(told) + "\n"


def _on_gpu(found: dict[str, Any]) -> list[str]:
    told = [
        "## On a GPU",
        "",
        f"{found['device']}: the shape of LLaMA-2-7B in bfloat16, {found['loaded'] / 1e9:.1f} GB,",
        f"layer {LAYERS[GPU]} edited. Its weights are random, and how many steps an edit takes",
        "depends on them.",
        "",
        "| | seconds an edit (bar) | steps | memory beside the base (bar 2 GB) | not learnt |",
        "|---|---|---|---|---|",
    ]
    together = f"`apply` of {found['together']['facts']} facts"
    for name, title, bar in (
        ("new", "one edit, into a new shard", 0.25),
        ("beside", "one edit, into a shard of 20", 0.25),
        ("together", together, 0.03),
    ):
        part = found[name]
        told.append(
            f"| {title} | {part['seconds']:.3f} ({bar:g}) | {part['steps']:g} | "
            f"{part['memory'] / 1e9:.1f} GB | {part['failed']} |"
        )
    return told


if __name__ == "__main__":
    run(__doc__.splitlines()[0], PARTS, KEPT, page)
