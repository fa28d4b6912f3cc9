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

import argparse
import json
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

from editcli.conflictfile import ConflictFile, read_conflicts
from editcli.conflicts import Bench, edited_record, neutral_texts
from editcli.editing import apply_facts
from editcli.factfile import read_facts
from editcli.output import Output
from editcli.paths import datasets_dir
from editcli.resolve import Found, find
from editcli.rivals import rival
from editcli.workspace import Workspace
from editors.base import Base
from editors.conflicts import Asked, Conflict, first_token, measure, next_probabilities
from editors.heads import path_effects
from editors.hooks import changing_input
from editors.locality import Battery, by_first_token, losses
from editors.locating import LocateSettings, locate
from editors.pruning import Head, HeadMask
from editors.resolving import PruneSettings
from editors.tokens import Batch, Row, encode_prompt

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
KEPT = DOCS / "conflicts.json"
ROWS = datasets_dir() / "atlas" / "conflicts.jsonl"
PREFER: tuple[Literal["memory", "context"], ...] = ("memory", "context")
BAR = {"memory": 0.45, "context": 0.40}
COMPARED = 300  # test rows on which rivals are compared
RANDOM_SETS = 5
QUIET = Output(quiet=True)


@contextmanager
def workspace(model: str = "atlas"):
    """A store on ``model`` in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        if os.spawnlp(
            os.P_WAIT, sys.executable, sys.executable, "-m", "editcli", "init", model, "-q",
            "--store", str(path),
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
    kept = kept_results()[f"prune:{prefer}"]
    heads = tuple(Head(*h) for h in kept["heads"])
    with workspace() as place:
        bench, file = bench_of(place), read_conflicts(str(ROWS))
        base = place.base
        locating, dev, test = (bench.ask(file.split(s), QUIET) for s in ("locate", "dev", "test"))
        rows = [a for a in test if a.conflicting][:COMPARED]
        others = [a for a in test if not a.conflicting]
        battery = Battery.of([*rows, *others], [], neutral_texts(None)[:60])

        def pruned(chosen: Sequence[Head]) -> dict[str, Any]:
            with bench.attached(HeadMask(tuple(chosen))) as edited:
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
            with bench.attached(HeadMask()) as edited:
                before = measure(base, there, edited)
            with bench.attached(found.mask) as edited:
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
    """Facts edited first and contradicted by a passage after; heads as for unedited facts."""
    facts = list(read_facts(str(datasets_dir() / "atlas" / "edits.jsonl")).facts)[:count]
    kept = kept_results()
    with workspace() as place:
        apply_facts(
            place, facts, QUIET, operation="apply", command="bench", refused=0, author=None,
            message="",
        )  # fmt: skip
        bench, base = bench_of(place), place.base
        rows = contradicted(facts, [f.target for f in facts])
        asked = bench.ask(rows, QUIET)
        about = [a for a in asked if a.fact is not None]
        found: dict[str, Any] = {
            "facts": len(facts),
            "rows": len(rows),
            "opened_without_passage": round(len(about) / len(asked), 4),
        }
        masks = {"none": HeadMask()} | {
            f"prefer {p}": HeadMask(tuple(Head(*h) for h in kept[f"prune:{p}"]["heads"]))
            for p in PREFER
        }
        for name, mask in masks.items():
            with bench.attached(mask) as edited:
                measured = measure(base, about, edited)
                battery = Battery.of([], facts, ())
                found[name] = {
                    **edited_record(measured.edited),
                    "no_passage": battery.scores(base, by_first_token)["edited"],
                }
        return found


def contradicted(facts: Sequence[Any], targets: Sequence[str]) -> list[Conflict]:
    """For each edit a passage with a third answer and one with the old answer, in plain words."""
    rng = Random(0)
    rows = []
    for fact in facts:
        third = rng.choice([t for t in targets if t not in (fact.target, fact.ground_truth)])
        for said in (third, fact.ground_truth):
            if said:
                rows.append(
                    Conflict(
                        question=fact.prompt,
                        context=f"The guide says it plainly: {fact.prompt} {said}.",
                        context_answer=said,
                        memory_answer=fact.ground_truth,
                        subject=fact.subject,
                        kind="gold" if said == fact.ground_truth else "substitution",
                    )
                )
    return rows


# --- speed and size -------------------------------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-small": {
        "model_type": "gpt2", "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12,
        "n_positions": 1024,
    },
    "llama-110m": {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048,
        "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
    },
}  # fmt: skip


def random_model(shape: str, folder: Path) -> Path:
    """A model of that shape with random weights, and atlas's tokenizer, as a folder."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(datasets_dir() / "atlas" / "model")
    told = dict(SHAPES[shape])
    ids = {k: getattr(tokenizer, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(told.pop("model_type"), **told, **ids)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # it is to say only what the tokenizer has words for
        model.get_output_embeddings().weight[len(tokenizer) :] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
    from editcli.models import load_base

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
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            model = random_model(shape, Path(folder) / "model")
            with workspace(str(model)) as place:
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
    from editors.generation import answers

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


def page(kept: dict[str, Any]) -> str:
    lines = [*_HEAD]
    lines += [
        "## Against the bars",
        "",
        "| prefer | heads pruned | memory | context | other | gain (bar) | refused by |",
        "|---|---|---|---|---|---|---|",
    ]
    for prefer in PREFER:
        if found := kept.get(f"prune:{prefer}"):
            before, after = found["before"], found["after"]
            heads = ", ".join(f"{layer}.{head}" for layer, head in found["heads"])
            gain = after[prefer][0] - before[prefer][0]
            moved = [
                f"{before[n][0]:.3f} → {after[n][0]:.3f}" for n in ("memory", "context", "other")
            ]
            lines.append(
                f"| {prefer} | {heads} ({found['listing']}) | "
                + " | ".join(moved)
                + f" | {gain:+.3f} ({BAR[prefer]:.2f}) | {', '.join(found['refused']) or 'none'} |"
            )
    lines += ["", "What it cost (positive is worse; neutral in nats a token, all else shares):", ""]
    names = list(next((kept[k]["lost"] for k in kept if k.startswith("prune:")), {}))
    lines += ["| prefer | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for prefer in PREFER:
        if found := kept.get(f"prune:{prefer}"):
            lines.append(
                f"| {prefer} | " + " | ".join(f"{found['lost'][n]:+.4f}" for n in names) + " |"
            )
    for prefer in PREFER:
        if found := kept.get(f"prune:{prefer}"):
            following = found["next_token"]
            lines += [
                "",
                f"Prefer {prefer}: {following['same_top']:.1%} of neutral prompts keep their "
                f"likeliest next token (KL {following['kl']:.4f}); taken off, logits are "
                f"{'bit-identical' if found['reversible'] else 'NOT identical'}. "
                f"{found['seconds']:.0f} s in all, {found['stages']['ranking heads']:.0f} s of it "
                "ranking heads.",
            ]
    if found := kept.get("prune:memory"):
        lines += ["", "The ten best of each ranking (layer.head, score in logits):", ""]
        for score in PREFER:
            told = ", ".join(f"{h[0]}.{h[1]} {v:.2f}" for h, v in found["locating"][score])
            lines.append(f"- {score}: {told}")
        lines += _LIMITS
    for prefer in PREFER:
        if found := kept.get(f"rivals:{prefer}"):
            lines += [
                "",
                f"## Rivals, prefer {prefer} ({found['k']} heads, {found['rows']} test rows)",
                "",
                "| by | memory | context | other | gold lost | irrelevant lost | facts lost "
                "| neutral lost | time to decode |",
                "|---|---|---|---|---|---|---|---|---|",
            ]
            for name, row in found["table"].items():
                lost = row["lost"]
                cells = [
                    f"{lost[n]:+.3f}" if n in lost else "-"
                    for n in ("gold", "irrelevant", "facts", "neutral")
                ]
                lines.append(
                    f"| {_SAID[name]} | "
                    + " | ".join(f"{row[n][0]:.3f}" for n in ("memory", "context", "other"))
                    + " | "
                    + " | ".join(cells)
                    + f" | {row.get('cost', 1.0):.2f} |"
                )
            for name in ("cad", "juice"):
                lines += ["", f"{_SAID[name]}: {json.dumps(found['table'][name]['settings'])}"]
    told = [p for p in PREFER if f"transfer:{p}" in kept]
    if told:
        lines += ["", "## Across relations", ""]
    for prefer in told:
        found = kept[f"transfer:{prefer}"]
        lines.append(
            f"- prefer {prefer}: gains on the relations that heads were found on "
            f"{found['own']}, on the others {found['other']}: {found['kept']:.0%} carry over"
        )
    if found := kept.get("edits"):
        lines += [
            "",
            "## Edits meet conflicts",
            "",
            f"{found['facts']} facts edited, each then contradicted by a passage with a third "
            "answer and by one with the old answer. The router opens "
            f"{found['opened_without_passage']:.3f} of the questions alone, and with the passage:",
            "",
            "| heads pruned | opened | edit | passage | old answer | other | edit, no passage |",
            "|---|---|---|---|---|---|---|",
        ]
        for name in ("none", "prefer memory", "prefer context"):
            row = found[name]
            lines.append(
                f"| {name} | {row['router']['opened_with_passage']:.3f} | {row['edit']:.3f} | "
                f"{row['context']:.3f} | {row['before']:.3f} | {row['other']:.3f} | "
                f"{row['no_passage']:.3f} |"
            )
    if found := kept.get("speed"):
        lines += [
            "",
            "## Cost of ranking",
            "",
            f"{found['heads']} heads of a GPT-2-small shape, {found['rows']} rows: "
            f"{found['seconds']:.2f} s (median of five) against "
            f"{found['literal_seconds']:.1f} s of one whole forward a head: "
            f"{found['ratio']:.0f} times faster, largest difference "
            f"{found['largest_gap']:.1e}.",
        ]
    for command in ("locate", "resolve"):
        if found := kept.get(f"shapes:{command}"):
            lines += [
                "",
                f"| {command}, random weights | parameters | rows a split | time | peak memory |",
                "|---|---|---|---|---|",
            ]
            for shape, row in found.items():
                lines.append(
                    f"| {shape} | {row['parameters'] / 1e6:.0f} M | {row['rows']} | "
                    f"{row['seconds']:.1f} s | {row['peak_memory_bytes'] / 2**30:.1f} GiB |"
                )
    return "\n".join(lines) + "\n"


_SAID = {
    "none": "as it is",
    "prune": "pruning, path patching (this tool)",
    "gradient": "pruning, by gradient",
    "random": "pruning, random heads of the same layers (mean of 5 sets)",
    "cad": "contrastive decoding (CAD, AdaCAD)",
    "juice": "two-run scaling (JuICE)",
}
_LIMITS = [
    "",
    "What limits it: atlas reads the subject of a fact with a head of its first layer, at the",
    "last token, so the best memory heads are at the bottom. Pruning them costs recall, and the",
    "gates allow only a set that changes little. Training on with heads that are given roles",
    "(`scripts/atlas_roles.py`) moved both rankings into the upper half; the numbers are in",
    "[benchmarks-notes.md](benchmarks-notes.md). It is not shipped: recall and routing suffered.",
    "",
]
_HEAD = [
    "# Conflicts between passage and memory",
    "",
    "Written by `python scripts/bench_conflicts.py` on 2 CPU cores, one thread each. Rows of",
    "`datasets/atlas/conflicts.jsonl`: heads ranked on the split *locate*, their number chosen on",
    "*dev*, the split *test* used once; answers are greedy and free-running.",
    "",
    "atlas is a model organism of under four million parameters: these numbers show that the",
    "machinery does what it says, not how well pruning does in a large model. There, the published",
    "averages are +44.0 points for memory and +38.5 for context (PH3), with up to 17 points lost",
    "where nothing conflicts.",
    "",
]


def kept_results() -> dict[str, Any]:
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(PARTS), action="append", help="a part to measure")
    parser.add_argument("--page", action="store_true", help="write the page from what is kept")
    args = parser.parse_args()
    for name in [] if args.page else args.only or list(PARTS):
        print(name, file=sys.stderr, flush=True)
        found = PARTS[name]()
        kept = {**kept_results(), name: found}  # read now: parts may be measured side by side
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        print(json.dumps(kept[name]), flush=True)
    (DOCS / "conflicts.md").write_text(page(kept_results()))


if __name__ == "__main__":
    main()
