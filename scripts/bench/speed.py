"""Measure what an edit costs, against the loop of the public implementation; write docs/speed.md.

    python scripts/bench/speed.py                             # everything
    python scripts/bench/speed.py --only iteration:gpt2-small # one part, saved beside the others

Parts, for each shape: iteration (a step of the same training, ours and the plain loop's, in turns),
edit (a whole edit with either's own stopping rule), memory (what an edit adds to the loaded base).
On atlas: amortised (`apply` of many facts against one at a time), growth (the thousandth edit
against the tenth), lines (memory of `apply` on a file of a million lines). inference: prefill and
decoding with the side memory attached, of prompts that no edit claims and of such that one does.
opening: a version against loading its base. size: what a shard takes on a layer of a 7B model.
iteration:llama-7b and gpu (edits of that model), in bfloat16, where there is a GPU.
Results are saved in docs/speed.json.

Random weights stand for real ones at real sizes: what a step costs does not depend on them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from benchmark import Results, parser_of, run
from random_models import SHAPES, random_model, random_weights
from torch.utils.flop_counter import FlopCounterMode
from workbench import Workbench, atlas_facts, small_corpus

from editcli.files.corpus import read_corpus
from editcli.models.libraries import disable_cudnn_attention
from editcli.models.loading import load_base
from editcli.models.locations import ATLAS
from editors import Fact
from editors.methods.edit_state import EditState, Scalar
from editors.methods.training.suffix_replay import record_states
from editors.methods.wise.settings import WiseSettings
from editors.methods.wise.shards import Mask, Shard
from editors.methods.wise.training.masked_delta import MaskedDelta
from editors.methods.wise.training.sequential import train_sequentially
from editors.model.base_model import Base
from editors.model.tensor_files import to_bytes
from editors.model.tokenization import Row, encode_pairs, encode_prompt
from editors.scope.unrelated_prompts import UNRELATED, prefixed

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "reference"))
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
    return atlas_facts("edits.jsonl")[:count]


def workbench(base: Base, shape: str, settings: Mapping[str, Scalar] | None = None) -> Workbench:
    """WISE on ``base``; one with random weights is calibrated on a small corpus."""
    corpus = read_corpus() if shape == ATLAS else small_corpus()
    return Workbench.of(base, corpus, settings=settings)


@contextmanager
def base_of(shape: str) -> Iterator[Base]:
    if shape == ATLAS:
        yield load_base(ATLAS, device="cpu")
        return
    if shape == GPU:
        disable_cudnn_attention()
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
    pairs = [(prompt, fact.target) for prompt in prompts]
    rows = encode_pairs(base.tokenizer, pairs, stop=True, context=context)
    return rows, [Row.of_prompt(encode_prompt(base.tokenizer, UNRELATED[0]))]


def mask_of(base: Base) -> Mask:
    return Mask((base.projection.out_features, base.projection.in_features), RATIO, 0)


def plain_loop(base: Base) -> Any:
    """The model as the plain loop takes it."""
    projection = base.projection
    return full_loop.FullModel(base.model, projection.path, stored_transposed=projection.transposed)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that ``run`` takes, and what it gives."""
    _synchronize()
    started = time.perf_counter()
    result = run()
    _synchronize()
    return time.perf_counter() - started, result


def _synchronize() -> None:
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
        trained, expected = ours(RIVAL_STEPS), theirs(RIVAL_STEPS)
        weight = base.projection.weight(base.model)
        edited = weight + Shard((), mask, trained.values).delta().to(weight.device)
        gap = float((edited - expected.weight).abs().max())
        seconds, rival_seconds = [], []
        for _ in range(REPEATS):
            seconds.append(timed(lambda: ours(STEPS))[0] / STEPS)
            rival_seconds.append(timed(lambda: theirs(RIVAL_STEPS))[0] / RIVAL_STEPS)
        share, recording = suffix_share(base, rows, seconds)
        used, tokens = used_flops(base, rows, mask), sum(len(row.ids) for row in rows)
        step, most = statistics.median(seconds), peak(weight)
        rival_step = statistics.median(rival_seconds)
        return {
            "parameters": sum(p.numel() for p in base.model.parameters()),
            "layers": len(base.architecture.blocks),
            "layer": base.layer,
            "tokens": tokens,
            "seconds": round(step, 5),
            "rival_seconds": round(rival_step, 5),
            "ratio": round(rival_step / step, 2),
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
    recording = statistics.median(
        timed(lambda: record_states(base, [base.batch(rows)]))[0] for _ in range(REPEATS)
    )
    return 1 - recording / (statistics.median(seconds) * STEPS), recording


def used_flops(base: Base, rows: Sequence[Row], mask: Mask) -> float:
    """Floating-point operations of one step, counted."""
    change = MaskedDelta(mask.entries(), None, base.projection.weight(base.model))
    suffix = record_states(base, [base.batch(rows)])
    with FlopCounterMode(display=False) as counter, suffix.replaying():
        [batch] = suffix.records
        logits, labels = suffix.logits(batch, batch.side(change))
        torch.autograd.backward(
            torch.nn.functional.cross_entropy(logits, labels), inputs=[change.values]
        )
    entries = mask.shape[0] * mask.shape[1]
    tokens = sum(len(row.ids) for row in rows)
    return counter.get_total_flops() + 4.0 * tokens * entries  # the change's own two products


def trainers(base: Base) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """Two trainings of one edit by so many steps: ours, and the plain loop's."""
    (rows, unrelated), mask = rows_of(base, edits(1)[0]), mask_of(base)
    full, entries = plain_loop(base), mask.entries()

    def ours(steps: int) -> Any:
        settings = WiseSettings(max_steps=steps, learning_rate=1.0)
        return train_sequentially(base, [rows], unrelated, mask, None, settings, enough=-1.0)

    def theirs(steps: int) -> Any:
        settings = WiseSettings(max_steps=steps, learning_rate=1.0)
        return full_loop.one_edit(
            full, rows, unrelated, entries, settings, plateau=-1.0, enough=-1.0
        )

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
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run()
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    whole = sum(spent.values())
    largest = sorted(spent, key=lambda name: -spent[name])[:most]
    return {name: round(spent[name] / whole, 3) for name in largest}


def edit(shape: str) -> dict[str, Any]:
    """A whole edit: ours until the answer is sure, the plain loop until its loss stands still."""
    with base_of(shape) as base:
        bench, mask = workbench(base, shape), mask_of(base)
        full, entries = plain_loop(base), mask.entries()
        settings = WiseSettings(max_steps=70, learning_rate=1.0)
        seconds, rival_seconds, steps, rival_steps = [], [], [], []
        bench.apply(edits(1))
        for fact in edits(REPEATS + 1)[1:]:
            took, done = timed(lambda f=fact: bench.apply([f]))
            seconds.append(took)
            steps.append(done.iterations)
            rows, unrelated = rows_of(base, fact)
            took, trained = timed(
                lambda r=rows, u=unrelated: full_loop.one_edit(full, r, u, entries, settings)
            )
            rival_seconds.append(took)
            rival_steps.append(trained.steps)
        ours, theirs = statistics.median(seconds), statistics.median(rival_seconds)
        return {
            "seconds": round(ours, 4),
            "steps": steps,
            "rival_seconds": round(theirs, 3),
            "rival_steps": rival_steps,
            "ratio": round(theirs / ours, 1),
        }


# Runs the command it is given and prints its peak memory in bytes and its exit status. A process
# of its own, with little memory: a command inherits the peak of the process that starts it.
_WATCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(1024 * used.ru_maxrss, os.waitstatus_to_exitcode(status))
"""


def peak_memory(command: Sequence[str], allowed: Sequence[int] = (0,)) -> int:
    """The most memory that a command holds, in bytes; it must exit with a status of ``allowed``."""
    watched = subprocess.run(
        [sys.executable, "-c", _WATCHER, *command], check=True, capture_output=True, text=True
    )
    peak, status = map(int, watched.stdout.split())
    assert status in allowed, (status, watched.stderr)
    return peak


def memory(shape: str) -> dict[str, Any]:
    """What an edit adds to the loaded base, in bytes, each measured in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        model = str(random_model(shape, Path(folder))) if shape != ATLAS else ATLAS
        peaks = {}
        for what, edited in (("load", False), ("edit", True)):
            code = (
                f"import sys; sys.path.insert(0, {str(HERE)!r}); "
                f"import speed; speed.load_and_run({model!r}, {shape!r}, {edited})"
            )
            each = [peak_memory([sys.executable, "-c", code]) for _ in range(REPEATS)]
            peaks[what] = statistics.median(each)  # the allocator's slack differs from run to run
        weights = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
    extra = (peaks["edit"] - peaks["load"]) / peaks["load"]
    return {**peaks, "weights": weights, "extra": round(extra, 4)}


def load_and_run(model: str, shape: str, edited: bool) -> None:
    """Load a model and run it as any use of the base does; where ``edited``, train an edit too."""
    base = load_base(model, device="cpu", layer=LAYERS.get(shape))
    ids = base.batch([Row((5,) * 24, 24)] * 12)
    with torch.no_grad():
        base.model(input_ids=ids.ids, use_cache=False, logits_to_keep=1)
    if edited:
        (rows, unrelated), mask = rows_of(base, edits(1)[0]), mask_of(base)
        settings = WiseSettings(max_steps=5, learning_rate=1.0)
        train_sequentially(base, [rows], unrelated, mask, None, settings)


# --- many edits -----------------------------------------------------------------------------------


def amortised(count: int = 200, alone: int = 40) -> dict[str, Any]:
    """``apply`` of many facts, and some of them one at a time, in turns."""
    bench, facts, turns = Workbench.on_atlas(), edits(count), []
    for _ in range(REPEATS):
        together, _ = timed(lambda: bench.apply(facts))
        state, each = bench.start, []
        for fact in facts[:alone]:
            took, done = timed(lambda s=state, f=fact: bench.apply([f], s))
            state = done.state
            each.append(took)
        turns.append((together / count, statistics.mean(each)))
    return {
        "facts": count,
        "seconds": round(statistics.median(together for together, _ in turns), 4),
        "alone_seconds": round(statistics.median(one for _, one in turns), 4),
        "ratio": round(statistics.median(one / together for together, one in turns), 2),
        "each": [round(one / together, 2) for together, one in turns],
    }


def growth(window: int = 10, count: int = 1000) -> dict[str, Any]:
    """The same edits, one at a time, into a store of ten facts and into one of a thousand, in
    turns."""
    bench, facts = Workbench.on_atlas(), edits(count)
    first = len(facts) - window
    young, old = (bench.apply(facts[:size]).state for size in (window, first))

    def mean(state: EditState) -> tuple[float, float]:
        """The seconds and the steps of an edit."""
        total, steps = 0.0, 0
        for fact in facts[first:]:
            took, done = timed(lambda s=state, f=fact: bench.apply([f], s))
            state = done.state
            total, steps = total + took, steps + done.iterations
        return total / window, steps / window

    turns = [(mean(young), mean(old)) for _ in range(REPEATS)]
    tenth, thousandth = (statistics.median(turn[i][0] for turn in turns) for i in (0, 1))
    ratio = statistics.median(b / a for (a, _), (b, _) in turns)
    return {
        "steps": [turns[0][i][1] for i in (0, 1)],
        "tenth": round(tenth, 4),
        "thousandth": round(thousandth, 4),
        "ratio": round(ratio, 2),
    }


def inference(shape: str, tokens: int = 24) -> dict[str, Any]:
    """Prefill and decoding of the same rows, without and with a side memory of 1 and 64 shards.

    With random weights a rephrase is no more like its fact than anything else, so there the edited
    prompts themselves are asked, and a shard holds one fact that takes one step.
    """
    real = shape == ATLAS
    each, rows, repeats = (15, 16, 4 * REPEATS) if real else (1, 8, 6 * REPEATS)
    with base_of(shape) as base:
        bench = workbench(base, shape, {"shard_size": each, **({} if real else {"max_steps": 1})})
        facts = edits(64 * each)
        claimed = [f.rephrases[0] if real else f.prompt for f in facts[:rows]]
        stays = {"do_sample": False, "pad_token_id": base.tokenizer.pad_token_id}

        def generate(inputs: dict[str, torch.Tensor], new: int) -> float:
            with torch.inference_mode():
                return timed(
                    lambda: base.model.generate(
                        **inputs, **stays, max_new_tokens=new, min_new_tokens=new
                    )
                )[0]

        slower: dict[str, Any] = {}
        for shards in (1, 64):
            state = bench.apply(facts[: each * shards]).state
            for kind, prompts in (("unclaimed", UNRELATED[:rows]), ("claimed", claimed)):
                encoded = [encode_prompt(base.tokenizer, prompt) for prompt in prompts]
                batch = base.batch([Row.of_prompt(ids) for ids in encoded], "left")
                inputs = {"input_ids": batch.ids, "attention_mask": batch.mask}
                pairs = []
                for _ in range(repeats):
                    without = (generate(inputs, 1), generate(inputs, tokens))
                    with bench.method.attach(state):
                        generate(inputs, 1)  # shards are unpacked once; `opening` counts it
                        pairs.append((without, (generate(inputs, 1), generate(inputs, tokens))))
                prefill = statistics.median(w[0] / b[0] for b, w in pairs) - 1
                decode = statistics.median((w[1] - w[0]) / (b[1] - b[0]) for b, w in pairs) - 1
                slower[f"{len(state.payload.shards)} {kind}"] = {
                    "prefill": round(prefill, 4), "decode": round(decode, 4),
                }  # fmt: skip
        return {"attached": slower}


def opening(shape: str = "llama-110m", count: int = 20) -> dict[str, Any]:
    """Loading a base, and on top of it a version with a shard of ``count`` facts."""
    with tempfile.TemporaryDirectory() as folder:
        model = str(random_model(shape, Path(folder)))

        def load() -> Base:
            return load_base(model, device="cpu", layer=LAYERS[shape])

        bench = workbench(load(), shape, {"max_steps": 1})
        method, state = bench.method, bench.apply(edits(count)).state
        blobs = method.save(state)

        def open_version() -> None:
            with method.attach(method.open(EditState.from_blobs(blobs))):
                pass

        loads = [timed(load)[0] for _ in range(REPEATS)]
        opens = [timed(open_version)[0] for _ in range(REPEATS)]
        unpacks = [timed(state.payload.shards[0].delta)[0] for _ in range(REPEATS)]
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
    values = torch.zeros(int(mask.entries().sum()), dtype=torch.bfloat16)
    packed = to_bytes(Shard((), mask, values).tensors())
    dense = 2 * mask.shape[0] * mask.shape[1]
    return {"shard": len(packed), "dense": dense, "share": round(len(packed) / dense, 4)}


def long_file(most: int = 1_000_000, taken: int = 20) -> dict[str, Any]:
    """`apply` of the first facts of a file of a thousand lines and of one of a million: peak memory
    of the process, in bytes."""
    results: dict[str, Any] = {"lines": most, "facts": taken}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1000, most):
            file = Path(folder, f"{count}.jsonl")
            with file.open("w") as facts:
                for number in range(count):
                    fact = {"prompt": f"The head of office {number} is", "target": "Ann Lee"}
                    facts.write(json.dumps({**fact, "subject": f"office {number}"}) + "\n")
            editcli = [sys.executable, "-m", "editcli"]
            store = ["--store", str(Path(folder, f"store-{count}")), "--quiet"]
            subprocess.run([*editcli, "init", ATLAS, *store], check=True, capture_output=True)
            command = [*editcli, "apply", str(file), "--limit", str(taken), *store]
            began = time.monotonic()
            # 1: a fact that was not learnt.
            results[f"memory_{count}"] = peak_memory(command, (0, 1))
            results[f"seconds_{count}"] = round(time.monotonic() - began, 1)
    return results


def gpu(count: int = 256, held: int = 20) -> dict[str, Any]:
    """Edits of a model of 7B: one into a new shard, one beside others, and many together."""
    with base_of(GPU) as base:
        bench = workbench(base, GPU)
        facts = edits(count + held + 2 * (REPEATS + 1))
        several = bench.apply(facts[:held]).state
        loaded, results = torch.cuda.memory_allocated(), {}
        for name, state, first in (
            ("new", bench.start, held),
            ("beside", several, held + REPEATS + 1),
        ):
            torch.cuda.reset_peak_memory_stats()
            took, steps, failed = [], [], 0
            for fact in facts[first : first + REPEATS + 1]:
                seconds, done = timed(lambda s=state, f=fact: bench.apply([f], s))
                took.append(seconds)
                steps.append(done.iterations)
                failed += len(done.failed)
            results[name] = {
                "seconds": round(statistics.median(took[1:]), 4),  # the first warms up
                "steps": statistics.median(steps[1:]),
                "failed": failed,
                "memory": torch.cuda.max_memory_allocated() - loaded,
            }
        torch.cuda.reset_peak_memory_stats()
        took = []
        for _ in range(REPEATS):
            seconds, done = timed(lambda: bench.apply(facts[-count:]))
            took.append(round(seconds / count, 4))
        results["together"] = {
            "facts": count,
            "seconds": statistics.median(took),
            "each": took,  # the first of them finds nothing allocated
            "steps": done.iterations,
            "failed": len(done.failed),
            "memory": torch.cuda.max_memory_allocated() - loaded,
        }
        return {"device": torch.cuda.get_device_name(), "loaded": loaded, **results}


# --- the page -------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"iteration:{s}": (lambda s=s: iteration(s)) for s in (ATLAS, *SHAPES) if s != GPU},
    **{f"edit:{s}": (lambda s=s: edit(s)) for s in (ATLAS, "gpt2-small", "llama-110m")},
    **{f"memory:{s}": (lambda s=s: memory(s)) for s in ("gpt2-small", "llama-32")},
    "profile": profile,
    "amortised": amortised,
    "growth": growth,
    **{f"inference:{s}": (lambda s=s: inference(s)) for s in (ATLAS, "gpt2-small")},
    "opening": opening,
    "size": size,
    "lines": long_file,
}
if torch.cuda.is_available():
    MEASURES |= {f"iteration:{GPU}": lambda: iteration(GPU), "gpu": gpu}
PARTS = {
    name: (lambda _, measure=measure: {**measure(), "threads": torch.get_num_threads()})
    for name, measure in MEASURES.items()
}


def _threads(results: Results) -> str:
    on_gpu = ("gpu", f"iteration:{GPU}")
    counts = {str(part["threads"]) for name, part in results.items() if name not in on_gpu}
    return " or ".join(sorted(counts))


def _steps(part: dict[str, Any]) -> str:
    """How many steps the young store and the old one take, which depends on their masks."""
    young, old = part.get("steps", (0, 0))
    return f"; {old:.1f} and {young:.1f} steps" if young else ""


def page(results: Results) -> str:
    threads = _threads(results)
    lines = [
        "# What an edit costs",
        "",
        f"Written by `make bench-speed` (`scripts/bench/speed.py`) on {os.cpu_count()} CPU cores,",
        f"torch {torch.__version__}. The rival, in turns in the same run, is the loop of the",
        "public implementation of WISE (`tests/reference/full_loop.py`): twelve rows through the",
        "whole model in every step. Real sizes have random weights. Threads of each part:",
        f"{threads}. The peak is that of a product of 2048 x 2048 matrices (on the GPU of",
        "8192 x 8192 in bfloat16; what was measured there says so). Parts may be of",
        "different machines and so their seconds not be compared; each ratio is of one run.",
        "",
        "## A step of the same training",
        "",
        "| shape | parameters | edited | ours | the loop | times faster (bar) | in the suffix "
        "| tokens/s | of the peak | largest difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in (ATLAS, *SHAPES):
        if part := results.get(f"iteration:{shape}"):
            bar = f" ({part['bar']:g})" if part["bar"] else ""
            name = f"{shape}, on the GPU" if shape == GPU else shape
            lines.append(
                f"| {name} | {part['parameters'] / 1e6:.1f} M | {part['layer']} of "
                f"{part['layers']} | {1e3 * part['seconds']:.1f} ms | "
                f"{1e3 * part['rival_seconds']:.1f} ms | {part['ratio']:.1f}{bar} | "
                f"{part['suffix_share']:.0%} | {part['tokens_per_second']:,} | "
                f"{part['of_peak']:.0%} | {part['largest_gap']:.0e} |"
            )
    lines += ["", f"{STEPS} steps, recording included; medians of {REPEATS}.", ""]
    if part := results.get("profile"):
        lines += [
            f"Where a step's time goes on {part['shape']}, by operation (torch.profiler):",
            "",
        ]
        for name, whose in (("ours", "ours"), ("loop", "the loop")):
            spent = ", ".join(f"{op} {share:.0%}" for op, share in part[name].items())
            lines.append(f"- {whose}: {spent}")
        lines.append("")
    lines += [
        "## A whole edit, each with its own stopping rule",
        "",
        "| shape | ours | steps | the loop | steps | times faster (bar 15) |",
        "|---|---|---|---|---|---|",
    ]
    for shape in (ATLAS, *SHAPES):
        if part := results.get(f"edit:{shape}"):
            lines.append(
                f"| {shape} | {part['seconds']:.3f} s | {statistics.median(part['steps']):g} | "
                f"{part['rival_seconds']:.2f} s | {statistics.median(part['rival_steps']):g} | "
                f"{part['ratio']:.1f} |"
            )
    lines.append("")
    if part := results.get("amortised"):
        lines.append(
            f"- `apply` of {part['facts']} facts on atlas: {part['seconds']:.3f} s an edit, one "
            f"at a time {part['alone_seconds']:.3f} s: {part['ratio']:.1f} times (bar 4)"
        )
    if part := results.get("growth"):
        lines.append(
            f"- the thousandth edit of a store {part['thousandth']:.3f} s, the tenth "
            f"{part['tenth']:.3f} s: {part['ratio']:.2f} times (bar 1.1)" + _steps(part)
        )
    for shape in SHAPES:
        if part := results.get(f"memory:{shape}"):
            lines.append(
                f"- peak memory, {shape}: {part['load'] / 2**20:.0f} MiB to load and run, "
                f"{part['edit'] / 2**20:.0f} MiB with an edit: {part['extra']:+.1%} (bar +15 %)"
            )
    for shape in (ATLAS, "gpt2-small"):
        for what, part in results.get(f"inference:{shape}", {}).get("attached", {}).items():
            shards, kind = what.split()
            some = "1 shard" if shards == "1" else f"{shards} shards"
            claim = "no edit claims" if kind == "unclaimed" else "an edit claims"
            lines.append(
                f"- {shape}, answering prompts that {claim}, {some} attached: prefill "
                f"{part['prefill']:+.1%} (bar +3 %), decoding {part['decode']:+.1%} (bar +2 %)"
            )
    if part := results.get("opening"):
        lines.append(
            f"- opening a version of {part['facts']} facts ({part['bytes'] / 2**20:.1f} MiB): "
            f"{part['extra']:+.1%} of the {part['load_seconds']:.2f} s that loading llama-110m "
            f"takes (bar +10 %), {part['first_use']:+.1%} once its shard answers a prompt"
        )
    if part := results.get("size"):
        lines.append(
            f"- a shard on a layer of 4096 x 11008 takes {part['share']:.1%} of the dense matrix "
            "in bfloat16"
        )
    if part := results.get("lines"):
        thousand, most = part["memory_1000"], part[f"memory_{part['lines']}"]
        lines.append(
            f"- `apply --limit {part['facts']}` of a file of {part['lines']:,} lines: "
            f"{most / 2**20:.0f} MiB at its peak; of one of a thousand: {thousand / 2**20:.0f} MiB"
        )
    if part := results.get("gpu"):
        lines += ["", *_on_gpu(part)]
    return "\n".join(lines) + "\n"


def _on_gpu(part: dict[str, Any]) -> list[str]:
    lines = [
        "## On a GPU",
        "",
        f"{part['device']}: the shape of LLaMA-2-7B in bfloat16, {part['loaded'] / 1e9:.1f} GB,",
        f"layer {LAYERS[GPU]} edited. Its weights are random, and how many steps an edit takes",
        "depends on them.",
        "",
        "| | seconds an edit (bar) | steps | memory beside the base (bar 2 GB) | not learnt |",
        "|---|---|---|---|---|",
    ]
    together = f"`apply` of {part['together']['facts']} facts"
    for name, title, bar in (
        ("new", "one edit, into a new shard", 0.25),
        ("beside", "one edit, into a shard of 20", 0.25),
        ("together", together, 0.03),
    ):
        row = part[name]
        lines.append(
            f"| {title} | {row['seconds']:.3f} ({bar:g}) | {row['steps']:g} | "
            f"{row['memory'] / 1e9:.1f} GB | {row['failed']} |"
        )
    return lines


if __name__ == "__main__":
    args = parser_of(__doc__.splitlines()[0], PARTS).parse_args()
    run(args, PARTS, args.only or list(PARTS), "speed", page)
