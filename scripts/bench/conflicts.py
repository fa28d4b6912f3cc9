"""Measure conflicts on atlas and smollm2: pruning, its bars, its rivals; write docs/conflicts.md.

    python scripts/bench/conflicts.py                     # everything, about half an hour
    python scripts/bench/conflicts.py --only prune:memory # one part, saved beside the others
    python scripts/bench/conflicts.py --rows 40           # fewer rows, to try it out

Parts: prune:memory, prune:context (the bars, through the library that `conflict resolve` runs),
rivals:memory, rivals:context, transfer:memory, transfer:context (heads of half of the relations on
the other half), smollm2 (both ways on a real model, rows of facts that it knows first), edits
(facts edited, then contradicted), speed (exact path patching against whole forwards),
shapes:locate, shapes:resolve (real sizes, random weights). Rivals and edits use the heads that
prune found. Results are saved in docs/conflicts.json.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from benchmark import Results, parser_of, run
from conflicts_page import page
from random_models import random_model
from workbench import CALIBRATED_ON

from editcli.cli.console import NO_PROGRESS, Output
from editcli.cli.options import Invocation
from editcli.files.conflicts import ConflictFile, read_conflicts
from editcli.files.facts import read_facts
from editcli.files.packaged import datasets_dir
from editcli.files.texts import read_texts
from editcli.models.loading import load_base
from editcli.models.locations import ATLAS, SMOLLM2
from editcli.operations.conflicts.decoding_baselines import By, measure_baseline
from editcli.operations.conflicts.prune_heads import PruningTest, find_heads
from editcli.operations.conflicts.records import edited_record, results_record
from editcli.operations.conflicts.session import ConflictSession
from editcli.operations.editing.apply import apply_facts
from editcli.operations.session import Session
from editors import Fact
from editors.conflicts.baselines.contrastive import contrastive_answers
from editors.conflicts.cases import CONFLICTING, Conflict, ConflictCase, Split
from editors.conflicts.locality import Battery, by_first_token, losses
from editors.conflicts.locate import LocateSettings, Score, locate
from editors.conflicts.measure import ConflictResults, Decoder, first_tokens, measure
from editors.conflicts.replies import Replies
from editors.conflicts.resolve import PruneSettings
from editors.heads.path_patching import path_effects
from editors.heads.pruning import Head, HeadMask, HeadPruning, Source
from editors.inference.edited_model import EditedModel
from editors.inference.generation import Answer, answers
from editors.inference.next_tokens import likeliest
from editors.model.base_model import Base
from editors.model.hooks import changing_input
from editors.model.tokenization import Batch, Row, encode_prompt, encode_prompts

ROWS = datasets_dir() / ATLAS / "conflicts.jsonl"
SPLITS: tuple[Split, ...] = ("locate", "dev", "test")
PREFER: tuple[Source, ...] = ("memory", "context")
COMPARED = 300  # test rows on which rivals are compared
REAL_ROWS: dict[Split, int] = {"locate": 50, "dev": 50, "test": 100}  # on smollm2
NEUTRAL = 60  # neutral texts beside them
RANDOM_SETS = 5
CONTRASTS = (-1.0, 1.0, 4.0)  # weights of the passage: memory alone, CAD's own, more
LABELLED = 8  # rows a split of a model with random weights
QUIET = Output(quiet=True)


@contextmanager
def opened_session(model: str = ATLAS, *options: str) -> Iterator[Session]:
    """A store on ``model`` in a folder that goes away, made with ``options`` of init."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        init = [sys.executable, "-m", "editcli", "init", model, "-q", "--store", str(store)]
        subprocess.run([*init, *options], check=True, stdout=subprocess.DEVNULL)
        yield Session.open(Invocation(store=store, device="cpu", quiet=True))


def conflicts_of(session: Session) -> ConflictSession:
    return ConflictSession(session, session.state()).without_pruning()


def find(session: Session, file: ConflictFile, prefer: Source) -> PruningTest:
    return find_heads(
        conflicts_of(session),
        file,
        prefer,
        LocateSettings(),
        PruneSettings(),
        read_texts(None),
        QUIET,
        NO_PROGRESS,
    )


def rates(measured: ConflictResults) -> dict[str, Any]:
    """Of each outcome on conflicting rows: value, n, and the interval's ends."""
    by_outcome = measured.conflicting.rates
    return {
        name: [round(rate.value, 4), rate.n, round(rate.low, 4), round(rate.high, 4)]
        for name, rate in (
            ("memory", by_outcome.memory),
            ("context", by_outcome.context),
            ("other", by_outcome.other),
        )
    }


# --- the bars -------------------------------------------------------------------------------------


def prune(prefer: Source, file: ConflictFile, _: Results) -> dict[str, Any]:
    with opened_session() as session:
        return pruned_in(session, prefer, file)


def on_smollm2(file: ConflictFile, _: Results) -> dict[str, Any]:
    with opened_session(SMOLLM2, "--method", "ft-m") as session:  # no scope has to be calibrated
        real = replace(file, rows=known_first(session.base, file))
        return {prefer: pruned_in(session, prefer, real) for prefer in PREFER}


def known_first(base: Base, file: ConflictFile) -> tuple[Conflict, ...]:
    """``REAL_ROWS`` conflicting rows of each split: those that the model answers as the row says
    where it has no passage, then others."""
    chosen: list[Conflict] = []
    for split, count in REAL_ROWS.items():
        rows = [row for row in file.split(split) if row.kind in CONFLICTING]
        replies = Replies(EditedModel.unedited(base), [str(row.memory_answer) for row in rows])
        said = replies.ask([row.question for row in rows])
        known = [
            reply.outcome({"memory": str(row.memory_answer)}) == "memory"
            for row, reply in zip(rows, said, strict=True)
        ]
        # Sorting keeps the order of equal ones.
        order = sorted(range(len(rows)), key=lambda i: not known[i])
        chosen += [rows[i] for i in order[:count]]
    return tuple(chosen)


def pruned_in(session: Session, prefer: Source, file: ConflictFile) -> dict[str, Any]:
    """What `conflict resolve` finds, how long it takes, and what it costs."""
    started, cpu_started = time.monotonic(), time.process_time()
    test = find(session, file, prefer)
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu_started
    rankings: tuple[Score, ...] = ("memory", "context")
    return {
        "rows": test.report["rows"],
        "facts": results_record(test.before)["facts"],
        "groups": {
            when: {n: results_record(measured)[n] for n in ("known", "unknown")}
            for when, measured in (("before", test.before), ("after", test.after))
        },
        "cpu_seconds": round(cpu_seconds, 1),
        "heads": [list(head) for head in test.mask.heads],
        "listing": test.choice.chosen.rule,
        "before": rates(test.before),
        "after": rates(test.after),
        "lost": {name: round(value, 5) for name, value in test.lost.items()},
        "scores": {
            when: {name: round(value, 5) for name, value in scores.items()}
            for when, scores in test.scores.items()
        },
        "refused": list(test.refused),
        "next_token": test.report["next_token"],
        "reversible": test.report["reversible"],
        "stages": test.report["seconds"],
        "seconds": round(seconds, 1),
        "locating": {
            score: [
                [list(head), round(float(test.ranking.mean(score)[head]), 3)]
                for head in test.ranking.top(score, 10)
            ]
            for score in rankings
        },
    }


# --- rivals ---------------------------------------------------------------------------------------


def rivals(prefer: Source, file: ConflictFile, saved: Results) -> dict[str, Any]:
    """Each way to prefer a source on the same test rows, with what it costs elsewhere."""
    heads = tuple(Head(*head) for head in saved[f"prune:{prefer}"]["heads"])
    with opened_session() as session:
        conflicts = conflicts_of(session)
        locating, dev, test = conflicts.splits(file, QUIET)
        cases = [case for case in test if case.conflicting][:COMPARED]
        others = [case for case in test if not case.conflicting]
        battery = Battery.of([*cases, *others], [], read_texts(None)[:NEUTRAL])

        def pruned(chosen: Sequence[Head]) -> dict[str, Any]:
            with conflicts.attached_with(HeadMask(tuple(chosen)), prefer) as model:
                of_sources = rates(measure(model, cases))
                scores = battery.scores(model, by_first_token)
            return {**of_sources, "lost": losses(start, scores)}

        with conflicts.attached() as model:
            start = battery.scores(model, by_first_token)
            shown = [case for case in locating if case.conflicting]
            gradients = gradient_heads(session.base, shown, prefer)
        table: dict[str, Any] = {"none": pruned(()), "prune": pruned(heads)}
        table["gradient"] = pruned(gradients[: len(heads)])
        table["gradient"]["heads"] = [list(head) for head in gradients[: len(heads)]]
        table["random"] = _mean([pruned(chosen) for chosen in random_heads(heads)])
        decoders: tuple[By, ...] = ("cad", "juice")
        for by in decoders:
            baseline = measure_baseline(by, conflicts, locating, dev, [*cases, *others], prefer)
            table[by] = {
                **rates(baseline.after),
                "settings": baseline.settings,
                "cost": round(baseline.cost, 2),
                "lost": {
                    kind: round(_right(baseline.before, kind) - _right(baseline.after, kind), 4)
                    for kind in ("gold", "irrelevant")
                },
            }
        return {"k": len(heads), "rows": len(cases), "table": table}


def _right(measured: ConflictResults, kind: str) -> float:
    """The share of rows of one kind that are answered from either source."""
    results = measured.only(lambda result: result.case.row.kind == kind).results
    return sum(result.outcome in ("memory", "context") for result in results) / len(results)


def random_heads(like: Sequence[Head]) -> list[tuple[Head, ...]]:
    """Sets with as many heads in each layer as ``like``, none of it in them."""
    rng = Random(0)
    sets = []
    for _ in range(RANDOM_SETS):
        chosen: list[Head] = []
        for layer in sorted({head.layer for head in like}):
            count = sum(head.layer == layer for head in like)
            free = [Head(layer, h) for h in range(8) if Head(layer, h) not in like]
            chosen += rng.sample(free, min(count, len(free)))
        sets.append(tuple(chosen))
    return sets


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    mean: dict[str, Any] = {"sets": len(rows)}
    for name in ("memory", "context", "other"):
        values = [row[name][0] for row in rows]
        mean[name] = [
            round(statistics.mean(values), 4), rows[0][name][1], min(values), max(values),
        ]  # fmt: skip
    mean["lost"] = {
        name: statistics.mean(row["lost"][name] for row in rows) for name in rows[0]["lost"]
    }
    return mean


def gradient_heads(base: Base, cases: Sequence[ConflictCase], prefer: Source) -> list[Head]:
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
        for case in cases:
            prompt = case.row.prompt
            ids = torch.tensor([encode_prompt(base.tokenizer, prompt)])
            pairs = [(prompt, case.memory), (prompt, case.row.context_answer)]
            memory, context = first_tokens(base, pairs)
            logits = base.model(input_ids=ids, use_cache=False).logits[0, -1]
            loses = logits[context] - logits[memory]
            loses = loses if prefer == "memory" else -loses
            grads = torch.autograd.grad(loses, list(gates.values()))
            for layer, grad in zip(gates, grads, strict=True):
                total[layer] += grad
    flat = [(float(v), Head(layer, i)) for layer, t in total.items() for i, v in enumerate(t)]
    return [head for _, head in sorted(flat, reverse=True)]


# --- transfer -------------------------------------------------------------------------------------


def transfer(prefer: Source, file: ConflictFile, _: Results) -> dict[str, Any]:
    """Heads ranked and counted on half of the relations, used on the rows of the other half."""
    relations = sorted({row.relation for row in file.rows if row.relation})
    Random(0).shuffle(relations)
    halves = [set(relations[: len(relations) // 2]), set(relations[len(relations) // 2 :])]
    with opened_session() as session:
        conflicts, gains = conflicts_of(session), []
        for ours, theirs in (halves, halves[::-1]):
            rows = tuple(row for row in file.rows if row.relation in ours)
            test = find(session, replace(file, rows=rows), prefer)
            own = _gain(test.before, test.after, prefer)
            there = [row for row in file.split("test") if row.relation in theirs]
            cases = [case for case in conflicts.cases(there, QUIET) if case.conflicting]
            with conflicts.attached() as model:
                before = measure(model, cases)
            with conflicts.attached_with(test.mask, prefer) as model:
                after = measure(model, cases)
            gains.append((own, _gain(before, after, prefer)))
    return {
        "own": [round(own, 4) for own, _ in gains],
        "other": [round(other, 4) for _, other in gains],
        "kept": round(sum(other for _, other in gains) / sum(own for own, _ in gains), 4),
    }


def _gain(before: ConflictResults, after: ConflictResults, prefer: Source) -> float:
    def rate(measured: ConflictResults) -> float:
        return float(getattr(measured.conflicting.rates, prefer).value)

    return rate(after) - rate(before)


# --- edits meet conflicts -------------------------------------------------------------------------


def edits(saved: Results, count: int = 100) -> dict[str, Any]:
    """Facts edited first and contradicted by a passage after; heads as for unedited facts.

    Passages say it once or insist; besides pruned heads, contrastive decoding on the same rows.
    """
    known = read_facts(str(datasets_dir() / ATLAS / "edits.jsonl")).facts
    facts = list(known)[:count]
    with opened_session() as session:
        apply_facts(session, facts, Invocation(quiet=True), operation="apply")
        conflicts = conflicts_of(session)
        battery = Battery.of([], facts, ())
        in_force = conflicts.state.edits
        prunings: dict[str, HeadPruning | None] = {"no head": None}
        for prefer in PREFER:
            heads = tuple(Head(*head) for head in saved[f"prune:{prefer}"]["heads"])
            prunings[f"prefer {prefer}"] = HeadPruning(prefer, HeadMask(heads), in_force)
        # What of the last is the router's doing, and what the heads'.
        prunings["yielding"] = HeadPruning("context", HeadMask(), in_force)
        results: dict[str, Any] = {"facts": len(facts)}
        for times, how_often in ((1, "once"), (4, "four times")):
            cases = conflicts.cases(contradicted(facts, known, times), QUIET)
            about = [case for case in cases if case.fact is not None]
            results[how_often] = {"opened_without_passage": round(len(about) / len(cases), 4)}
            for name, pruning in prunings.items():
                state = replace(conflicts.state, pruning=pruning)
                with session.method.attach(state) as model:
                    results[how_often][name] = {
                        **edited_record(measure(model, about)),
                        "no_passage": battery.scores(model, by_first_token)["edited"],
                    }
            for alpha in CONTRASTS:
                with conflicts.attached() as model:
                    measured = measure(model, about, contrasting(model, alpha))
                results[how_often][f"contrast {alpha:+}"] = edited_record(measured)
        return results


def contrasting(model: EditedModel, alpha: float) -> Decoder:
    def decode(cases: Sequence[ConflictCase], tokens: int) -> list[Answer]:
        prompts, questions = [c.row.prompt for c in cases], [c.row.question for c in cases]
        return contrastive_answers(model, prompts, questions, tokens, alpha)

    return decode


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
        for claimed in (third, fact.ground_truth):
            if claimed:
                again = f" Once more: {claim} {claimed}." * (times - 1)
                rows.append(
                    Conflict(
                        question=fact.prompt,
                        context=f"The guide says it plainly: {claim} {claimed}.{again}",
                        context_answer=claimed,
                        memory_answer=fact.ground_truth,
                        subject=fact.subject,
                        kind="gold" if claimed == fact.ground_truth else "substitution",
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

    def forward(batch: Batch, forced: list[torch.Tensor] | None) -> tuple[list[Any], torch.Tensor]:
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

    here, before = forward(original, None)
    there, _ = forward(corrupted, None)
    last, other = original.mask.sum(1) - 1, corrupted.mask.sum(1) - 1
    count = base.architecture.n_heads
    effects = torch.zeros(len(paths), count, *tokens.shape)
    for layer in range(len(paths)):
        for head in range(count):
            features = base.architecture.head_slice(layer, head)
            forced = list(here)
            forced[layer] = here[layer].clone()
            forced[layer][rows, last, features] = there[layer][rows, other, features]
            effects[layer, head] = before - forward(original, forced)[1]
    return effects


def speed(_: Results, rows: int = 4, repeats: int = 5) -> dict[str, Any]:
    """One-token path patching against whole forwards, the same rows, every head, both checked."""
    with tempfile.TemporaryDirectory() as folder:
        base = load_base(str(random_model("gpt2-small", Path(folder))), device="cpu")
        lines = [r for r in read_conflicts(str(ROWS)).rows if r.kind == "substitution"][: 2 * rows]
        encoded = encode_prompts(base.tokenizer, [row.prompt for row in lines])
        original, corrupted = (
            base.batch([Row.of_prompt(ids) for ids in side])
            for side in (encoded[:rows], encoded[rows:])
        )
        tokens = torch.tensor([[5, 9]] * rows)
        layers, heads = len(base.architecture.blocks), base.architecture.n_heads
        seconds: list[float] = []
        for _ in range(repeats):
            started = time.monotonic()
            effects = path_effects(EditedModel.unedited(base), original, corrupted, tokens)
            seconds.append(time.monotonic() - started)
        started = time.monotonic()
        literal = whole_forwards(base, original, corrupted, tokens)
        literal_seconds = time.monotonic() - started
        gap = float((effects - literal).abs().max())
    ours = statistics.median(seconds)
    return {
        "shape": "gpt2-small", "heads": layers * heads, "rows": rows,
        "tokens": [len(ids) for ids in encoded[:rows]], "seconds": round(ours, 3),
        "literal_seconds": round(literal_seconds, 2), "ratio": round(literal_seconds / ours, 1),
        "largest_gap": gap,
    }  # fmt: skip


def shapes(command: str, _: Results) -> dict[str, Any]:
    """`locate` or `resolve` at real sizes: time and memory; random weights have no knowledge.

    Rows are labelled by what such a model says anyway, half as memory's and half as the passage's.
    """
    results: dict[str, Any] = {}
    for shape in ("gpt2-small", "llama-110m"):
        with tempfile.TemporaryDirectory() as folder:
            model = random_model(shape, Path(folder) / "model")
            few = Path(folder) / "few.jsonl"  # scope is not what is measured
            phrasings = (datasets_dir() / "calibration.jsonl").read_text("utf-8").splitlines()
            few.write_text("\n".join(phrasings[:CALIBRATED_ON]) + "\n", "utf-8")
            with opened_session(str(model), "--calibration", str(few)) as session:
                file = labelled(session.base, read_conflicts(str(ROWS)).rows)
                conflicts = conflicts_of(session)
                started = time.monotonic()
                if command == "resolve":
                    find_heads(
                        conflicts, file, "memory", LocateSettings(), PruneSettings(heads=4),
                        read_texts(None)[:10], QUIET, NO_PROGRESS,
                    )  # fmt: skip
                else:
                    cases = conflicts.cases(file.split("locate"), QUIET)
                    with conflicts.attached() as edited:
                        locate(edited, cases, LocateSettings())
                results[shape] = {
                    "parameters": sum(p.numel() for p in session.base.model.parameters()),
                    "rows": len(file.rows) // len(SPLITS),
                    "seconds": round(time.monotonic() - started, 1),
                    "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                }
    return results


def labelled(base: Base, rows: Sequence[Conflict]) -> ConflictFile:
    """A few short rows a split whose sources are what the model says with the passage there."""
    model, made = EditedModel.unedited(base), []
    for split in SPLITS:
        candidates = [r for r in rows if r.split == split and r.kind == "substitution"][:60]
        prompts = [row.prompt for row in candidates]
        texts = [answer.text for answer in answers(model, prompts, 1)]
        fitting = [
            (row, text)
            for row, text, token in zip(candidates, texts, likeliest(model, prompts), strict=True)
            if text and first_tokens(base, [(row.prompt, text)]) == [token]
        ][:LABELLED]
        for i, (row, text) in enumerate(fitting):
            memory, context = (text, "Rome") if i % 2 else ("Paris", text)
            made.append(replace(row, memory_answer=memory, context_answer=context))
    return ConflictFile("labelled", tuple(made), "")


# --- the parts ------------------------------------------------------------------------------------


def parts(file: ConflictFile) -> dict[str, Callable[[Results], dict[str, Any]]]:
    return {
        **{f"prune:{p}": partial(prune, p, file) for p in PREFER},
        **{f"rivals:{p}": partial(rivals, p, file) for p in PREFER},
        **{f"transfer:{p}": partial(transfer, p, file) for p in PREFER},
        "smollm2": partial(on_smollm2, file),
        "edits": edits,
        "speed": speed,
        "shapes:locate": partial(shapes, "locate"),
        "shapes:resolve": partial(shapes, "resolve"),
    }


def main() -> None:
    file = read_conflicts(str(ROWS))
    parser = parser_of(__doc__.splitlines()[0], parts(file))
    parser.add_argument("--rows", type=int, help="rows of each split (all)")
    args = parser.parse_args()
    if args.rows is not None:
        rows = [row for split in SPLITS for row in file.split(split)[: args.rows]]
        file = replace(file, rows=tuple(rows))
    measures = parts(file)
    run(args, measures, args.only or list(measures), "conflicts", page)


if __name__ == "__main__":
    main()
