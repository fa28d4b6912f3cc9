"""Measure which prompts the scope signals open, on a real model; write docs/real-scope.md.

    python scripts/bench/real_scope.py                        # every signal on the dev half
    python scripts/bench/real_scope.py --only "key, test"     # the half that nothing is tuned on
    PUBLIC_SETS=FOLDER python scripts/bench/real_scope.py --only "sentence, wikitext"
    python scripts/bench/real_scope.py --only "sentence, corpus"  # relations held out and trained

Nothing is trained but what `init` trains: a router is asked about each prompt of datasets/real.
Each fact is asked for alone, so that another fact cannot take its prompts. Chats go through the
model's chat template. The sentences of WikiText-2 meet all facts of the dev half at once.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

import torch
from benchmark import Results, parser_of, run
from public_sets import HALVES, wikitext_sentences

from editcli.files.corpus import read_corpus
from editcli.files.packaged import ShippedCalibrations, datasets_dir
from editcli.models.loading import load_base
from editcli.models.locations import SMOLLM2
from editors import METHODS, Fact
from editors.inference.decisions import decided
from editors.model.base_model import Base
from editors.model.tokenization import Prompt, encode_prompts
from editors.scope.corpus import SUBJECT, Relation
from editors.scope.fact_scope import FactScope
from editors.scope.registry import SIGNALS
from editors.scope.settings import ScopeSettings

ASKS = "asks"
SENTENCES = 1000  # of WikiText-2
Probes = dict[str, list[tuple[Fact, Prompt, str]]]
"""By set: facts, prompts, and what each prompt does: it asks the fact, or its kind of probe."""


def rows(name: str) -> Iterator[dict[str, Any]]:
    with (datasets_dir() / "real" / name).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def probes(half: str) -> Probes:
    found: Probes = defaultdict(list)
    known: dict[str, Fact] = {}
    for name in ("well-known", "rules"):
        for row in rows(f"{name}-{half}.jsonl"):
            fact = Fact.from_dict(row)
            known[fact.prompt] = fact
            found[name] += [(fact, prompt, ASKS) for prompt in fact.rephrases]
            found[name] += [(fact, probe.prompt, probe.kind) for probe in fact.locality]
    for row in rows(f"chats-{half}.jsonl"):
        found["chats"].append((known[row["fact"]], row["turns"], row["kind"] or ASKS))
    return found


def claimed(base: Base, scope: FactScope, state: Any, of_set: Sequence[Any]) -> dict[str, Any]:
    """By kind, how many prompts there are and the share that their fact claims."""
    by_fact: dict[str, list[tuple[Fact, Prompt, str]]] = defaultdict(list)
    for fact, prompt, kind in of_set:
        by_fact[fact.id].append((fact, prompt, kind))
    opened: dict[str, list[bool]] = defaultdict(list)
    for asked in by_fact.values():
        fact = asked[0][0]
        known = scope.only(state, [fact])
        router = scope.router(known, {fact.id: fact}, lambda _: 0, context_first=False)
        with base.probing():
            ids = encode_prompts(base.tokenizer, [prompt for _, prompt, _ in asked])
            for decision, (_, _, kind) in zip(decided(router, ids), asked, strict=True):
                opened[kind].append(decision.opened)
    return {k: {"n": len(v), "claimed": round(sum(v) / len(v), 4)} for k, v in opened.items()}


def measured(signal: str, half: str, _: Results) -> dict[str, Any]:
    base = load_base(SMOLLM2, device="cpu", edits=METHODS.load("wise").edits)
    scope = FactScope(base, ScopeSettings(scope=signal))
    started = time.monotonic()
    state = scope.start(read_corpus(), ShippedCalibrations())
    calibrated = time.monotonic() - started
    of_sets = {name: claimed(base, scope, state, rows) for name, rows in probes(half).items()}
    return {"calibration_seconds": round(calibrated, 1), "half": half, "sets": of_sets}


def on_corpus(signal: str, _: Results) -> dict[str, Any]:
    """Relations of the corpus that the signal was not trained on, and as many that it was."""
    base = load_base(SMOLLM2, device="cpu", edits=METHODS.load("wise").edits)
    scope = FactScope(base, ScopeSettings(scope=signal))
    corpus = read_corpus()
    state = scope.start(corpus, ShippedCalibrations())
    held_out = [relation for relation in corpus.relations if relation.held_out]
    trained = [relation for relation in corpus.relations if not relation.held_out]
    chosen = {"held out": held_out, "trained": Random(0).sample(trained, len(held_out))}
    return {
        "sets": {
            name: claimed(base, scope, state, [*_of_relations(relations)])
            for name, relations in chosen.items()
        }
    }


def _of_relations(relations: Sequence[Relation]) -> Iterator[tuple[Fact, Prompt, str]]:
    """A fact for each relation, with the other phrasings and the near questions."""
    for relation in relations:
        subject = relation.subjects[0] if relation.has_subject else None
        own, *others = (text.replace(SUBJECT, subject or "") for _, text in relation.phrasings)
        fact = Fact(own, relation.targets[0], subject)
        yield from ((fact, text, ASKS) for text in others)
        near = (text.replace(SUBJECT, subject or "") for text in relation.near)
        yield from ((fact, text, "subject") for text in near)


def on_wikitext(signal: str, _: Results) -> dict[str, Any]:
    base = load_base(SMOLLM2, device="cpu", edits=METHODS.load("wise").edits)
    scope = FactScope(base, ScopeSettings(scope=signal))
    names = [f"{name}-{HALVES[0]}.jsonl" for name in ("well-known", "rules")]
    facts = {fact.id: fact for name in names for fact in map(Fact.from_dict, rows(name))}
    state = scope.only(scope.start(read_corpus(), ShippedCalibrations()), [*facts.values()])
    router = scope.router(state, facts, lambda _: 0, context_first=False)
    sentences = wikitext_sentences(SENTENCES)
    started = time.process_time()
    with base.probing():
        decisions = decided(router, encode_prompts(base.tokenizer, sentences))
    claimed = [
        [text, facts[decision.fact].prompt]
        for text, decision in zip(sentences, decisions, strict=True)
        if decision.opened and decision.fact
    ]
    return {
        "facts": len(facts),
        "sentences": len(sentences),
        "claimed": claimed,
        "cpu_milliseconds_a_sentence": round(
            1000 * (time.process_time() - started) / len(sentences), 1
        ),
    }


def page(results: Results) -> str:
    lines = [
        "# Scope on a real model",
        "",
        "Written by `scripts/bench/real_scope.py` on SmolLM2-135M-Instruct, float32, CPU.",
        "A cell is the share of prompts that a fact claims, and the number of prompts. *asks*:",
        "prompts that ask it in other words, which it should claim. All other columns are kinds",
        "of probes (docs/facts.md); it should claim none. The sets are in `datasets/real`; signals",
        "are tuned on `dev` alone.",
        "",
    ]
    kinds = [ASKS, "relation", "subject", "mention", "name", "time", "amount", "turn", "far"]
    lines += [f"| signal, half | set | {' | '.join(kinds)} |", f"|{'---|' * (len(kinds) + 2)}"]
    for part, result in results.items():
        for name, by_kind in result.get("sets", {}).items():
            cells = [
                f"{by_kind[kind]['claimed']:.2f} ({by_kind[kind]['n']})" if kind in by_kind else ""
                for kind in kinds
            ]
            lines.append(f"| {part} | {name} | {' | '.join(cells)} |")
    lines += [
        "",
        *(
            f"{part}: {len(result['claimed'])} of {result['sentences']} sentences of WikiText-2 "
            f"are claimed by a store of {result['facts']} facts, those without a subject included."
            for part, result in results.items()
            if "sentences" in result
        ),
    ]
    return "\n".join(lines) + "\n"


PARTS = {
    f"{signal}, {half}": partial(measured, signal, half)
    for signal in SIGNALS.names()
    for half in HALVES
}
PARTS |= {f"{signal}, wikitext": partial(on_wikitext, signal) for signal in SIGNALS.names()}
PARTS |= {f"{signal}, corpus": partial(on_corpus, signal) for signal in SIGNALS.names()}

if __name__ == "__main__":
    args = parser_of(__doc__.splitlines()[0], PARTS).parse_args()
    torch.set_num_threads(1)
    run(
        args,
        PARTS,
        args.only or [part for part in PARTS if part.endswith(HALVES[0])],
        "real-scope",
        page,
    )
