"""Measure conflicts on atlas: pruning against its bars and its rivals; write docs/conflicts.md.

    python scripts/bench_conflicts.py                     # everything, about half an hour
    python scripts/bench_conflicts.py --only prune:memory # one part, kept beside the others

Parts: prune:memory, prune:context (the bars, through the library that `conflict resolve` runs),
rivals:memory, rivals:context, transfer:memory, transfer:context (heads of half of the relations on
the other half), edits (facts edited, then contradicted), speed (exact path patching against whole
forwards), shapes:locate, shapes:resolve (real sizes, random weights). Results are kept in
docs/conflicts.json.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from conflicts_page import page
from parts import kept_in, run
from shapes import random_model

from editcli.cli.console import Output
from editcli.files.conflicts import ConflictFile, read_conflicts
from editcli.files.facts import read_facts
from editcli.files.packaged import datasets_dir
from editcli.operations.apply import apply_facts
from editcli.operations.conflict_session import Bench, edited_record, neutral_texts
from editcli.operations.decoding_baselines import rival
from editcli.operations.prune_heads import Found, find
from editcli.operations.session import Workspace
from editors.conflicts.baselines.contrastive import contrastive_answers
from editors.conflicts.cases import Ask, Asked, Conflict, first_token, measure, next_probabilities
from editors.conflicts.locality import Battery, by_first_token, losses
from editors.conflicts.locate import LocateSettings, locate
from editors.conflicts.resolve import PruneSettings
from editors.facts import Fact
from editors.heads.head_mask import Head, HeadMask, Resolution
from editors.heads.path_patching import path_effects
from editors.inference.generation import Answer
from editors.model.base_model import Base
from editors.model.hooks import changing_input
from editors.model.tokenization import Batch, Row, encode_prompt

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
KEPT = DOCS / "conflicts.json"
ROWS = datasets_dir() / "atlas" / "conflicts.jsonl"
PREFER: tuple[Literal["memory", "context"], ...] = ("memory", "context")
COMPARED = 300  # test rows on which rivals are compared
RANDOM_SETS = 5
CONTRASTS = (-1.0, 1.0, 4.0)  # weights of the passage: memory alone, CAD's own, more
CALIBRATED = 50  # groups of phrasings, for a model of a real size with random weights
QUIET = Output(quiet=True)


@contextmanager
def workspace(model: str = "atlas", *options: str):
    """A store on ``model`` in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        if os.spawnlp(
            os.P_WAIT, sys.executable, sys.executable, "-m", "editcli", "init", model, "-q",
            "--store", str(path), *options,
        ):  # fmt: skip
            raise SystemExit("the store could not be made")
        yield Workspace.open(path, device="cpu", dtype="auto")


def bench_of(place: Workspace) -> Bench:
    return Bench(place, place.state()).unpruned()


def resolved(place: Workspace, file: ConflictFile, prefer: Any) -> Found:
    return find(
        place,
        bench_of(place),
        file,
        prefer,
        LocateSettings(),
        PruneSettings(),
        neutral_texts(None),
        QUIET,
        lambda stage: print(f"  {stage}", file=sys.stderr, flush=True) if stage else None,
    )


def rates(measured: Any) -> dict[str, Any]:
    found = measured.conflicting.rates
    return {
        name: [round(r.value, 4), r.n, round(r.low, 4), round(r.high, 4)]
        for name, r in (
            ("memory", found.memory),
            ("context", found.context),
            ("other", found.other),
        )
    }


# --- the bars -------------------------------------------------------------------------------------


def prune(prefer: Literal["memory", "context"]) -> dict[str, Any]:
    with workspace() as place:
        started = time.monotonic()
        found = resolved(place, read_conflicts(str(ROWS)), prefer)
        seconds = time.monotonic() - started
        return {
            "heads": [list(h) for h in found.mask.heads],
            "listing": found.choice.chosen.listing,
            "before": rates(found.before),
            "after": rates(found.after),
            "lost": {k: round(v, 5) for k, v in found.lost.items()},
            "scores": {w: {k: round(v, 5) for k, v in s.items()} for w, s in found.scores.items()},
            "refused": list(found.refused),
            "next_token": found.report["next_token"],
            "reversible": found.report["reversible"],
            "stages": found.report["seconds"],
            "seconds": round(seconds, 1),
            "locating": {
                score: [
                    [list(h), round(float(found.ranking.mean(score)[h]), 3)]
                    for h in found.ranking.top(score, 10)
                ]
                for score in PREFER
            },
        }


# --- rivals ---------------------------------------------------------------------------------------


def rivals(prefer: Literal["memory", "context"]) -> dict[str, Any]:
    """Each way to prefer a source on the same test rows, with what it costs elsewhere."""
    kept = kept_in(KEPT)[f"prune:{prefer}"]
    heads = tuple(Head(*h) for h in kept["heads"])
    with workspace() as place:
        bench, file = bench_of(place), read_conflicts(str(ROWS))
        base = place.base
        locating, dev, test = (bench.ask(file.split(s), QUIET) for s in ("locate", "dev", "test"))
        rows = [a for a in test if a.conflicting][:COMPARED]
        others = [a for a in test if not a.conflicting]
        battery = Battery.of([*rows, *others], [], neutral_texts(None)[:60])

        def pruned(chosen: Sequence[Head]) -> dict[str, Any]:
            with bench.trying(prefer)(HeadMask(tuple(chosen))) as edited:
                found = rates(measure(base, rows, edited))
                scores = battery.scores(base, by_first_token)
            return {**found, "lost": losses(start, scores)}

        with bench.attached():
            start = battery.scores(base, by_first_token)
            gradients = gradient_heads(base, [a for a in locating if a.conflicting], prefer)
        table: dict[str, Any] = {"none": pruned(()), "prune": pruned(heads)}
        table["gradient"] = pruned(gradients[: len(heads)])
        table["gradient"]["heads"] = [list(h) for h in gradients[: len(heads)]]
        table["random"] = _mean([pruned(h) for h in random_heads(heads)])
        for by in ("cad", "juice"):
            found = rival(by, bench, locating, dev, [*rows, *others], prefer)  # type: ignore[arg-type]
            table[by] = {
                **rates(found.after),
                "settings": found.settings,
                "cost": round(found.cost, 2),
                "lost": {
                    kind: round(_right(found.before, kind) - _right(found.after, kind), 4)
                    for kind in ("gold", "irrelevant")
                },
            }
        return {"k": len(heads), "rows": len(rows), "table": table}


def _right(measured: Any, kind: str) -> float:
    part = measured.only(lambda r: r.asked.row.kind == kind).results
    return sum(r.outcome in ("memory", "context") for r in part) / len(part)


def random_heads(like: Sequence[Head]) -> list[tuple[Head, ...]]:
    """Sets with as many heads in each layer as ``like``, none of it in them."""
    rng = Random(0)
    found = []
    for _ in range(RANDOM_SETS):
        chosen: list[Head] = []
        for layer in sorted({h.layer for h in like}):
            count = sum(h.layer == layer for h in like)
            free = [Head(layer, h) for h in range(8) if Head(layer, h) not in like]
            chosen += rng.sample(free, min(count, len(free)))
        found.append(tuple(chosen))
    return found


def _mean(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    mean: dict[str, Any] = {"sets": len(found)}
    for name in ("memory", "context", "other"):
        values = [one[name][0] for one in found]
        mean[name] = [
            round(statistics.mean(values), 4), found[0][name][1], min(values), max(values),
        ]  # fmt: skip
    mean["lost"] = {
        name: statistics.mean(one["lost"][name] for one in found) for name in found[0]["lost"]
    }
    return mean


def gradient_heads(base: Base, rows: Sequence[Asked], prefer: str) -> list[Head]:
    """Heads by the mean size of the gradient of the logit difference by a gate on them.

    The gate is 1 for every head (Michel et al., arXiv 1905.10650); those whose gate pulls towards
    the source that is to lose come first.
    """
    architecture = base.architecture
    gates = {
        block.index: torch.ones(architecture.n_heads, requires_grad=True)
        for block in architecture.blocks
        if block.attention_out
    }
    total = {layer: torch.zeros(architecture.n_heads) for layer in gates}

    def gating(layer: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def gated(inputs: torch.Tensor) -> torch.Tensor:
            parts = inputs.unflatten(-1, (architecture.n_heads, -1))
            return (parts * gates[layer][:, None]).flatten(-2)

        return gated

    with ExitStack() as stack, torch.enable_grad():
        for layer in gates:
            out = architecture.block(layer).attention_out
            assert out is not None
            module = base.model.get_submodule(out.path)
            stack.enter_context(changing_input(module, gating(layer)))
        for asked in rows:
            ids = torch.tensor([encode_prompt(base.tokenizer, asked.row.prompt)])
            memory = first_token(base, asked.row.prompt, asked.memory)
            context = first_token(base, asked.row.prompt, asked.row.context_answer)
            logits = base.model(input_ids=ids, use_cache=False).logits[0, -1]
            loses = logits[context] - logits[memory]
            loses = loses if prefer == "memory" else -loses
            grads = torch.autograd.grad(loses, list(gates.values()))
            for layer, grad in zip(gates, grads, strict=True):
                total[layer] += grad
    flat = [(float(v), Head(layer, i)) for layer, t in total.items() for i, v in enumerate(t)]
    return [head for _, head in sorted(flat, reverse=True)]


# --- transfer -------------------------------------------------------------------------------------


def transfer(prefer: Literal["memory", "context"]) -> dict[str, Any]:
    """Heads found and counted on half of the relations, used on the rows of the other half."""
    file = read_conflicts(str(ROWS))
    relations = sorted({row.relation for row in file.rows if row.relation})
    Random(0).shuffle(relations)
    halves = [set(relations[: len(relations) // 2]), set(relations[len(relations) // 2 :])]
    with workspace() as place:
        base, bench = place.base, bench_of(place)
        gains = []
        for ours, theirs in (halves, halves[::-1]):
            found = resolved(
                place,
                replace(file, rows=tuple(r for r in file.rows if r.relation in ours)),
                prefer,
            )
            own = _gain(found.before, found.after, prefer)
            there = bench.ask([r for r in file.split("test") if r.relation in theirs], QUIET)
            there = [a for a in there if a.conflicting]
            with bench.attached() as edited:
                before = measure(base, there, edited)
            with bench.trying(prefer)(found.mask) as edited:
                after = measure(base, there, edited)
            gains.append((own, _gain(before, after, prefer)))
    return {
        "own": [round(own, 4) for own, _ in gains],
        "other": [round(other, 4) for _, other in gains],
        "kept": round(sum(o for _, o in gains) / sum(o for o, _ in gains), 4),
    }


def _gain(before: Any, after: Any, prefer: str) -> float:
    rate = lambda m: getattr(m.conflicting.rates, prefer).value  # noqa: E731
    return float(rate(after) - rate(before))


# --- edits meet conflicts -------------------------------------------------------------------------


def edits(count: int = 100) -> dict[str, Any]:
    """Facts edited first and contradicted by a passage after; heads as for unedited facts.

    Passages say it once or insist; besides pruned heads, contrastive decoding on the same rows.
    """
    known = read_facts(str(datasets_dir() / "atlas" / "edits.jsonl")).facts
    facts = list(known)[:count]
    kept = kept_in(KEPT)
    with workspace() as place:
        apply_facts(
            place, facts, QUIET, operation="apply", command="bench", refused=0, author=None,
            message="",
        )  # fmt: skip
        bench, base = bench_of(place), place.base
        battery = Battery.of([], facts, ())
        resolutions = {"no head": None} | {
            f"prefer {p}": Resolution(
                p, HeadMask(tuple(Head(*h) for h in kept[f"prune:{p}"]["heads"])), bench.state.edits
            )
            for p in PREFER
        }
        # What of the last is the router's doing, and what the heads'.
        resolutions["yielding"] = Resolution("context", HeadMask(), bench.state.edits)
        found: dict[str, Any] = {"facts": len(facts)}
        for times, told in ((1, "once"), (4, "four times")):
            asked = bench.ask(contradicted(facts, known, times), QUIET)
            about = [a for a in asked if a.fact is not None]
            found[told] = {"opened_without_passage": round(len(about) / len(asked), 4)}
            for name, resolution in resolutions.items():
                with place.method.attach(replace(bench.state, resolution=resolution)) as edited:
                    found[told][name] = {
                        **edited_record(measure(base, about, edited)),
                        "no_passage": battery.scores(base, by_first_token)["edited"],
                    }
            for alpha in CONTRASTS:
                with bench.attached() as edited:
                    ways = measure(base, about, edited, contrasting(base, alpha))
                    found[told][f"contrast {alpha:+}"] = edited_record(ways)
        return found


def contrasting(base: Base, alpha: float) -> Ask:
    def ask(rows: Sequence[Asked], room: int) -> list[Answer]:
        prompts, questions = [a.row.prompt for a in rows], [a.row.question for a in rows]
        return contrastive_answers(base, prompts, questions, room, alpha)

    return ask


def contradicted(facts: Sequence[Fact], others: Sequence[Fact], times: int) -> list[Conflict]:
    """For each edit a passage with a third answer and one with the old answer, in plain words.

    The third answer is one that ``others`` of the same relation have: a substitution of one type.
    """
    rng = Random(0)
    rows = []
    for fact in facts:
        alike = {o.ground_truth for o in others if o.tags == fact.tags} - {None}
        third = rng.choice(sorted(alike - {fact.target, fact.ground_truth}))
        claim = next(p for p in (fact.prompt, *fact.rephrases) if not p.endswith("?"))
        for said in (third, fact.ground_truth):
            if said:
                again = f" Once more: {claim} {said}." * (times - 1)
                rows.append(
                    Conflict(
                        question=fact.prompt,
                        context=f"The guide says it plainly: {claim} {said}.{again}",
                        context_answer=said,
                        memory_answer=fact.ground_truth,
                        subject=fact.subject,
                        kind="gold" if said == fact.ground_truth else "substitution",
                    )
                )
    return rows


# --- speed and size -------------------------------------------------------------------------------


@torch.inference_mode()
def whole_forwards(
    base: Base, original: Batch, corrupted: Batch, tokens: torch.Tensor
) -> torch.Tensor:
    """``[layers, heads, rows, tokens]``: path patching as written, a forward of all rows a head.

    Every projection reads what it read in the original run, but for one head at the last token.
    """
    blocks = base.architecture.blocks
    paths = [block.attention_out.path for block in blocks if block.attention_out]
    rows = torch.arange(len(original.ids))

    def run(batch: Batch, forced: list[torch.Tensor] | None) -> tuple[list[Any], torch.Tensor]:
        read: list[torch.Tensor] = []
        with ExitStack() as stack:
            for number, path in enumerate(paths):
                module = base.model.get_submodule(path)
                if forced is None:
                    stack.enter_context(
                        changing_input(module, lambda x: read.append(x.clone()) or x)
                    )
                else:
                    stack.enter_context(changing_input(module, lambda _, n=number: forced[n]))
            ids, mask = batch.ids, batch.mask
            logits = base.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return read, logits[rows, mask.sum(1) - 1].gather(1, tokens)

    here, before = run(original, None)
    there, _ = run(corrupted, None)
    last, other = original.mask.sum(1) - 1, corrupted.mask.sum(1) - 1
    count = base.architecture.n_heads
    found = torch.zeros(len(paths), count, *tokens.shape)
    for layer in range(len(paths)):
        for head in range(count):
            features = base.architecture.head_slice(layer, head)
            forced = list(here)
            forced[layer] = here[layer].clone()
            forced[layer][rows, last, features] = there[layer][rows, other, features]
            found[layer, head] = before - run(original, forced)[1]
    return found


def speed(rows: int = 4, repeats: int = 5) -> dict[str, Any]:
    """One-token path patching against whole forwards, the same rows, every head, both checked."""
    from editcli.models.loading import load_base

    with tempfile.TemporaryDirectory() as folder:
        base = load_base(str(random_model("gpt2-small", Path(folder))), device="cpu")
        lines = [r for r in read_conflicts(str(ROWS)).rows if r.kind == "substitution"][: 2 * rows]
        encoded = [encode_prompt(base.tokenizer, r.prompt) for r in lines]
        pairs = list(zip(encoded[:rows], encoded[rows:], strict=True))
        original, corrupted = (
            base.batch([Row(pair[side], len(pair[side])) for pair in pairs]) for side in (0, 1)
        )
        tokens = torch.tensor([[5, 9]] * rows)
        layers, heads = len(base.architecture.blocks), base.architecture.n_heads
        ours: list[float] = []
        for _ in range(repeats):
            started = time.monotonic()
            effects = path_effects(base, original, corrupted, tokens)
            ours.append(time.monotonic() - started)
        started = time.monotonic()
        plain = whole_forwards(base, original, corrupted, tokens)
        theirs = time.monotonic() - started
        gap = float((effects - plain).abs().max())
    mine = statistics.median(ours)
    return {
        "shape": "gpt2-small", "heads": layers * heads, "rows": rows,
        "tokens": [len(pair[0]) for pair in pairs], "seconds": round(mine, 3),
        "literal_seconds": round(theirs, 2), "ratio": round(theirs / mine, 1), "largest_gap": gap,
    }  # fmt: skip


def shapes(resolving: bool = False) -> dict[str, Any]:
    """`locate` (or `resolve`) at real sizes: time and memory; random weights have no knowledge.

    Rows are labelled by what such a model says anyway, half as memory's and half as the passage's.
    """
    found: dict[str, Any] = {}
    for shape in ("gpt2-small", "llama-110m"):
        with tempfile.TemporaryDirectory() as folder:
            model = random_model(shape, Path(folder) / "model")
            few = Path(folder) / "few.jsonl"  # a router is not what is measured
            phrasings = (datasets_dir() / "calibration.jsonl").read_text("utf-8").splitlines()
            few.write_text("\n".join(phrasings[:CALIBRATED]) + "\n", "utf-8")
            with workspace(str(model), "--calibration", str(few)) as place:
                file = labelled(place.base, list(read_conflicts(str(ROWS)).rows))
                started = time.monotonic()
                if resolving:
                    find(
                        place, bench_of(place), file, "memory", LocateSettings(),
                        PruneSettings(heads=4), neutral_texts(None)[:10], QUIET, lambda _: None,
                    )  # fmt: skip
                else:
                    rows = bench_of(place).ask(file.split("locate"), QUIET)
                    with bench_of(place).attached() as edited:
                        locate(place.base, rows, LocateSettings(), edited)
                found[shape] = {
                    "parameters": sum(p.numel() for p in place.base.model.parameters()),
                    "rows": len(file.rows) // 3,
                    "seconds": round(time.monotonic() - started, 1),
                    "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                }
    return found


def labelled(base: Base, rows: Sequence[Conflict]) -> ConflictFile:
    """Eight short rows a split whose sources are what the model says with the passage there."""
    from editors.inference.generation import answers

    made: list[Conflict] = []
    for split in ("locate", "dev", "test"):
        asked = [r for r in rows if r.split == split and r.kind == "substitution"][:60]
        said = [answer.text for answer in answers(base, [r.prompt for r in asked], 1)]
        likely = next_probabilities(base, [r.prompt for r in asked]).argmax(-1).tolist()
        fitting = [
            (row, text)
            for row, text, token in zip(asked, said, likely, strict=True)
            if text and first_token(base, row.prompt, text) == token
        ][:8]
        for i, (row, text) in enumerate(fitting):
            memory, context = (text, "Rome") if i % 2 else ("Paris", text)
            made.append(replace(row, memory_answer=memory, context_answer=context))
    return ConflictFile("labelled", tuple(made), "")


# --- the page -------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    **{f"prune:{p}": (lambda p=p: prune(p)) for p in PREFER},
    **{f"rivals:{p}": (lambda p=p: rivals(p)) for p in PREFER},
    **{f"transfer:{p}": (lambda p=p: transfer(p)) for p in PREFER},
    "edits": edits,
    "speed": speed,
    "shapes:locate": shapes,
    "shapes:resolve": lambda: shapes(resolving=True),
}


if __name__ == "__main__":
    run(__doc__.splitlines()[0], PARTS, KEPT, page)
