"""Compare ways to decide scope on atlas, without training: who is let in, and who should not be.

    python scripts/bench/scope.py            # prints a Markdown table, some minutes on two cores
    python scripts/bench/scope.py --edits 20 # the same for so many edits alone

Every way sees the same candidates (facts whose subject the prompt names) and the same keys of a
fact: its prompt and two prefixed forms. A way is a space of keys and a threshold on cosine; the
last adds hard negatives. Measured on phrasings that are in no key: *routed right* counts rephrases
that open their own fact, *near opened* near locality prompts that open any. At the end: to which
passages an edit yields where the context is preferred.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from random import Random

import torch
from torch.nn import functional as F
from workbench import Workbench, atlas_facts

from editcli.files.corpus import read_corpus
from editors import Fact
from editors.inference.hidden_states import last_token_states
from editors.model.base_model import Base
from editors.model.tokenization import encode_prompts
from editors.scope.context_first import ContextFirstRouter
from editors.scope.fact_names import names_of
from editors.scope.key.calibration import Calibration, key_layers
from editors.scope.key.signal import PREFIXED, KeyRouter, KeySignal
from editors.scope.mentions import Mentions
from editors.scope.unrelated_prompts import UnrelatedPrefixes, prefixed

SIZES = (100, 1000)
BOUND = 0.02  # share of near locality prompts that may open, where a threshold is chosen for it

Question = tuple[int, str]
"""The number of the fact that a prompt belongs to, and the prompt."""

Scores = dict[int, tuple[float, float]]
"""Of one prompt, by candidate: the nearest own key, and the nearest hard negative."""


def questions_of(facts: Sequence[Fact]) -> tuple[list[Question], list[Question]]:
    """Rephrases, and near locality prompts."""
    inside = [(i, text) for i, fact in enumerate(facts) for text in fact.rephrases]
    near = [(i, p.prompt) for i, f in enumerate(facts) for p in f.locality if p.near]
    return inside, near


def nearest(keys: torch.Tensor, query: torch.Tensor) -> float:
    """The cosine of ``query`` ``[width]`` and the nearest of ``keys`` ``[n, width]``; -1 of
    none."""
    return float((keys @ query).max()) if len(keys) else -1.0


def rates(
    inside: Sequence[Question], scores: Sequence[Scores], threshold: float
) -> tuple[float, float]:
    """Share of rephrases routed to their own fact, share of near prompts that open one.

    ``scores``: of the prompts ``inside``, and after them of the near ones.
    """
    chosen = []
    for of_prompt in scores:
        best = max(of_prompt, key=lambda fact: of_prompt[fact][0], default=None)
        opens = best is not None and of_prompt[best][0] > max(threshold, of_prompt[best][1])
        chosen.append(best if opens else None)
    right = [fact == own for (own, _), fact in zip(inside, chosen, strict=False)]
    opened = [fact is not None for fact in chosen[len(inside) :]]
    return sum(right) / len(right), sum(opened) / len(opened)


def rates_at_bound(inside: Sequence[Question], scores: Sequence[Scores]) -> tuple[float, float]:
    """The rates at the lowest threshold, in hundredths, that opens at most ``BOUND`` of near."""
    for step in range(100):
        pair = rates(inside, scores, step / 100)
        if pair[1] <= BOUND:
            return pair
    return pair


def passages(facts: Sequence[Fact]) -> tuple[list[str], list[str]]:
    """Questions behind a passage on the edited fact, and behind one on something else about its
    subject."""
    rng, on_fact, beside = Random(0), [], []
    for fact in facts:
        claim = rng.choice([p for p in (fact.prompt, *fact.rephrases) if not p.endswith("?")])
        third = rng.choice([other.target for other in facts if other.target != fact.target])
        on_fact.append(f"{claim} {third}. {rng.choice(fact.rephrases)}")
        beside += [
            f"{probe.prompt} {probe.answer}. {fact.prompt}"
            for probe in fact.locality
            if probe.answer and str(fact.subject).casefold() in probe.prompt.casefold()
        ]
    return on_fact, beside


def yielded(base: Base, router: KeyRouter, texts: Sequence[str]) -> float:
    """The share of the prompts at which an edit yields."""
    with base.probing():
        proposal = ContextFirstRouter(router).propose(encode_prompts(base.tokenizer, texts))
    return sum(decision.yielded for decision in proposal.decisions) / len(texts)


def states_of(base: Base, texts: Sequence[str], layers: Sequence[int]) -> torch.Tensor:
    return last_token_states(base, encode_prompts(base.tokenizer, texts), layers)


def key_spaces(
    base: Base, calibration: Calibration
) -> dict[str, Callable[[Sequence[str]], torch.Tensor]]:
    """By name, what makes keys ``[n, width]`` of length 1 of texts."""
    plain = [prompt for group in read_corpus().groups for prompt in group.prompts[:1]]

    def raw(layers: Sequence[int]) -> Callable[[Sequence[str]], torch.Tensor]:
        centre = states_of(base, plain, layers).mean(0)

        def keys(texts: Sequence[str]) -> torch.Tensor:
            centred = F.normalize(states_of(base, texts, layers) - centre, dim=-1)
            return F.normalize(centred.flatten(1), dim=-1)

        return keys

    last, several = len(base.architecture.blocks) - 1, key_layers(base)
    return {
        f"raw state of block {base.layer}": raw([base.layer]),
        "raw state of the last block": raw([last]),
        f"raw states of blocks {several[0]} to {several[-1]}": raw(several),
        "Fisher's discriminant": lambda texts: calibration.keys(states_of(base, texts, several)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, action="append", help="how many edits (100, 1000)")
    sizes = parser.parse_args().edits or SIZES
    bench = Workbench.on_atlas()
    base, known = bench.method.base, bench.start.payload.scope.calibration
    prefixes = UnrelatedPrefixes(base)
    signal = KeySignal(base, known, prefixes)
    spaces = key_spaces(base, signal.calibration)
    everything = atlas_facts("edits.jsonl")
    print("| keys | T | routed right / near opened at .9 | at most 2 % of near opened |")
    print("|---|---|---|---|")
    for count in sizes:
        facts = everything[:count]
        inside, near = questions_of(facts)
        texts = [text for _, text in (*inside, *near)]
        mentions = Mentions([names_of(fact) for fact in facts])
        candidates = [mentions.named_in(text) for text in texts]
        forms = [[f.prompt, *prefixed(f, prefixes.all, PREFIXED)] for f in facts]
        for name, keys_of in spaces.items():
            keys = keys_of([text for of_fact in forms for text in of_fact])
            keys = keys.view(count, 1 + PREFIXED, -1)
            queries = keys_of(texts)
            scores: list[Scores] = [
                {fact: (nearest(keys[fact], query), -1.0) for fact in named}
                for query, named in zip(queries, candidates, strict=True)
            ]
            fixed = "{:.3f} / {:.3f}".format(*rates(inside, scores, 0.9))
            bound = "{:.3f} / {:.3f}".format(*rates_at_bound(inside, scores))
            print(f"| {name} | {count} | {fixed} | {bound} |", flush=True)
        learnt = signal.learn(facts).keys()
        of_facts = [learnt[fact.id] for fact in facts]
        # The last space is the signal's own.
        contested: list[Scores] = [
            {
                fact: (
                    nearest(of_facts[fact]["keys"], query),
                    nearest(of_facts[fact]["negatives"], query),
                )
                for fact in named
            }
            for query, named in zip(queries, candidates, strict=True)
        ]
        threshold = signal.calibration.named
        fixed = "{:.3f} / {:.3f}".format(*rates(inside, contested, threshold))
        print(
            f"| the same with hard negatives, at the calibrated {threshold:.2f} | {count} "
            f"| {fixed} | |",
            flush=True,
        )
        if count == sizes[0]:
            router = signal.router(facts, of_facts, [0] * count)
            yields = [(len(texts), yielded(base, router, texts)) for texts in passages(facts)]
    print()
    for what, (number, share) in zip(("the fact", "something else"), yields, strict=True):
        print(f"An edit yields to {share:.3f} of {number} passages on {what} about its subject.")


if __name__ == "__main__":
    main()
