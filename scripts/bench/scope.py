"""Compare ways to decide scope on atlas, without training: who is let in, and who should not be.

    python scripts/bench_router.py        # prints a Markdown table, some minutes on two cores

Every way sees the same candidates (facts whose subject the prompt names) and the same keys of a
fact: its prompt and two prefixed forms. A way is a space of keys and a threshold on cosine; the
last adds rivals. Measured on phrasings that are in no key: *routed right* counts rephrases that
open their own fact, *near opened* near locality prompts that open any. At the end: to which
passages an edit yields where the context is preferred.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import torch
from bench import Workbench, facts_of, phrasings
from torch.nn import functional as F

from editcli.models.loading import load_base
from editors.facts import Fact
from editors.inference.hidden_states import last_states
from editors.methods.wise.method import Wise
from editors.model.base_model import Base
from editors.model.tokenization import encode_prompt
from editors.scope.calibration import Calibration, key_layers
from editors.scope.keys import KeyRouter, KeySettings, Looking, Subjects, Yielding, nearest
from editors.scope.unrelated_prompts import prefixed

SIZES = (100, 1000)
BOUND = 0.02  # share of near locality prompts that may open, where a threshold is chosen for it

Asked = list[tuple[int, str]]  # whose prompt, and the prompt
Found = list[dict[int, tuple[float, float]]]  # by candidate: own score, best rival's score


def asked_of(facts: Sequence[Fact]) -> tuple[Asked, Asked]:
    """Rephrases, and near locality prompts."""
    inside = [(i, text) for i, fact in enumerate(facts) for text in fact.rephrases]
    near = [(i, p.prompt) for i, f in enumerate(facts) for p in f.locality if p.kind == "near"]
    return inside, near


def rates(inside: Asked, near: Asked, found: Found, threshold: float) -> tuple[float, float]:
    """Share of rephrases routed to their own fact, share of near prompts that open one."""
    chosen = []
    for candidates in found:
        best = max(candidates, key=lambda fact: candidates[fact][0], default=None)
        opens = best is not None and candidates[best][0] > max(threshold, candidates[best][1])
        chosen.append(best if opens else None)
    right = [fact == own for (own, _), fact in zip(inside, chosen, strict=False)]
    opened = [fact is not None for fact in chosen[len(inside) :]]
    return sum(right) / len(right), sum(opened) / len(opened)


def at_bound(inside: Asked, near: Asked, found: Found) -> tuple[float, float]:
    """The rates at the lowest threshold, in hundredths, that opens at most ``BOUND`` of near."""
    for step in range(100):
        pair = rates(inside, near, found, step / 100)
        if pair[1] <= BOUND:
            return pair
    return pair


def passages(facts: Sequence[Fact]) -> tuple[list[str], list[str]]:
    """Questions behind a passage on the edited fact, and behind one on something else about its
    subject."""
    rng, on_it, beside = Random(0), [], []
    for fact in facts:
        claim = rng.choice([p for p in (fact.prompt, *fact.rephrases) if not p.endswith("?")])
        third = rng.choice([other.target for other in facts if other.target != fact.target])
        on_it.append(f"{claim} {third}. {rng.choice(fact.rephrases)}")
        beside += [
            f"{probe.prompt} {probe.answer}. {fact.prompt}"
            for probe in fact.locality
            if probe.answer and str(fact.subject).casefold() in probe.prompt.casefold()
        ]
    return on_it, beside


def yielded(base: Base, router: KeyRouter, texts: Sequence[str]) -> float:
    """The share of the prompts at which an edit yields."""
    decisions = Yielding(router).decide([encode_prompt(base.tokenizer, text) for text in texts])
    return sum(decision.yielded for decision in decisions) / len(decisions)


def main() -> None:
    base = load_base("atlas", device="cpu")
    method = Wise(base, {}, seed=0)
    state = Workbench(base, method, method.empty(phrasings())).empty
    calibration = Calibration.from_tensors(state.router)
    everything = facts_of("edits.jsonl")
    last = len(base.architecture.blocks) - 1

    def states(texts: Sequence[str], layers: list[int]) -> torch.Tensor:
        return last_states(base, [encode_prompt(base.tokenizer, t) for t in texts], layers)

    plain = [p for group in phrasings() for p in group.prompts[:1]]

    def raw(layers: list[int]) -> Callable[[Sequence[str]], torch.Tensor]:
        centre = states(plain, layers).mean(0)
        return lambda texts: F.normalize(
            F.normalize(states(texts, layers) - centre, dim=-1).flatten(1), dim=-1
        )

    several = key_layers(base)
    spaces = {
        f"raw state of block {base.layer}": raw([base.layer]),
        "raw state of the last block": raw([last]),
        f"raw states of blocks {several[0]} to {several[-1]}": raw(several),
        "Fisher's discriminant": lambda texts: calibration.keys(states(texts, several)),
    }
    print("| keys | T | routed right / near opened at .9 | at most 2 % of near opened |")
    print("|---|---|---|---|")
    for count in SIZES:
        facts = everything[:count]
        inside, near = asked_of(facts)
        texts = [text for _, text in (*inside, *near)]
        named = Subjects([fact.subject for fact in facts])
        candidates = [named.named_in(text) for text in texts]
        forms = [[f.prompt, *prefixed(f, method.calm_prefixes, 2)] for f in facts]
        for name, keys_of in spaces.items():
            keys = keys_of([text for of_fact in forms for text in of_fact]).view(count, 3, -1)
            queries = keys_of(texts)
            found: Found = [
                {fact: (nearest(keys[fact], query), -1.0) for fact in some}
                for query, some in zip(queries, candidates, strict=True)
            ]
            fixed = "{:.3f} / {:.3f}".format(*rates(inside, near, found, 0.9))
            bound = "{:.3f} / {:.3f}".format(*at_bound(inside, near, found))
            print(f"| {name} | {count} | {fixed} | {bound} |", flush=True)
        seen = Looking(base, facts, calibration, method.calm_prefixes, KeySettings()).seen()
        each = [seen[fact.id] for fact in facts]
        rivalled: Found = [
            {
                fact: (nearest(each[fact].keys, query), nearest(each[fact].rivals, query))
                for fact in some
            }
            for query, some in zip(queries, candidates, strict=True)
        ]
        fixed = "{:.3f} / {:.3f}".format(*rates(inside, near, rivalled, calibration.named))
        print(
            f"| the same with rivals, at the calibrated {calibration.named:.2f} | {count} "
            f"| {fixed} | |",
            flush=True,
        )
        if count == SIZES[0]:
            router = KeyRouter(base, facts, [0] * count, calibration, each)
            told = [(len(texts), yielded(base, router, texts)) for texts in passages(facts)]
    print()
    for what, (number, share) in zip(("the fact", "something else"), told, strict=True):
        print(f"An edit yields to {share:.3f} of {number} passages on {what} about its subject.")


if __name__ == "__main__":
    main()
