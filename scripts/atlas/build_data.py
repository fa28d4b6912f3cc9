"""Build the fact files that ship with atlas: edits, real updates, conflict rows, calibration.

    python scripts/atlas/build_data.py   # writes {edits,updates,conflicts}.jsonl, calibration.jsonl

A pure function of ``facts.jsonl``, ``relations.json``, ``successions.jsonl`` and ``passages.json``.
Phrasings 0..3 of a relation may serve as the prompt of an edit or to calibrate a scope signal; all
that is measured, ``rephrases`` and ``locality``, is drawn from the other phrasings, so no measured
prompt is ever trained or calibrated on. Facts in ``calibration.jsonl`` are neither edited in
``edits.jsonl`` nor asked for as locality.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random

from corpus import ATLAS, EDIT_PHRASINGS, Corpus, Triple, read_jsonl

EDITS = 1000
REPHRASES = 4
CALIBRATED_PER_RELATION = 25


def write_jsonl(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def pick_phrasing(subject: str, relation: str) -> int:
    """The editing phrasing of one (subject, relation): always the same, so updates supersede."""
    return hashlib.sha256(f"{relation}|{subject}".encode()).digest()[0] % EDIT_PHRASINGS


class Builder:
    """Draws probes around ``edited`` facts (subject, relation), never about those or
    ``reserved``."""

    def __init__(
        self,
        corpus: Corpus,
        edited: set[tuple[str, str]],
        reserved: list[Triple],
        rng: Random,
    ) -> None:
        self.corpus, self.rng = corpus, rng
        self.edited = {subject for subject, _ in edited}
        self.touched = touched = edited | {(f.subject, f.relation) for f in reserved}
        self.untouched = [f for f in corpus.facts if (f.subject, f.relation) not in touched]

    def probe(self, fact: Triple, kind: str) -> dict:
        phrasing = self.rng.randrange(EDIT_PHRASINGS, self.corpus.phrasings(fact.relation))
        prompt = self.corpus.prompt(fact.subject, fact.relation, phrasing)
        return {"prompt": prompt, "answer": fact.object, "kind": kind}

    def free(self, pool: list[Triple]) -> list[Triple]:
        return [f for f in pool if (f.subject, f.relation) not in self.touched]

    def locality(self, fact: Triple) -> list[dict]:
        """Other questions about the subject (to 2), the same question about other subjects (to 2),
        and far ones, about subjects no edit is about (2)."""
        same_subject = self.free(self.corpus.by_subject[fact.subject])
        same_relation = self.free(self.corpus.by_relation[fact.relation])
        probed = {
            "subject": self.rng.sample(same_subject, min(2, len(same_subject))),
            "relation": self.rng.sample(same_relation, min(2, len(same_relation))),
            "far": [],
        }
        while len(probed["far"]) < 2:
            other = self.rng.choice(self.untouched)
            if other.subject not in self.edited and other.relation != fact.relation:
                probed["far"].append(other)
        return [self.probe(other, kind) for kind, others in probed.items() for other in others]

    def fact(self, subject: str, relation: str, target: str, truth: str) -> dict:
        measured = range(EDIT_PHRASINGS, self.corpus.phrasings(relation))
        return {
            "prompt": self.corpus.prompt(subject, relation, pick_phrasing(subject, relation)),
            "target": target,
            "subject": subject,
            "ground_truth": truth,
            "rephrases": [
                self.corpus.prompt(subject, relation, p)
                for p in sorted(self.rng.sample(measured, REPHRASES))
            ],
            "locality": self.locality(Triple(subject, relation, truth)),
        }


def chosen_edits(corpus: Corpus) -> list[Triple]:
    """Facts over all relations; at most a third of a subject's or a relation's facts."""
    rng = Random(11)
    facts = corpus.facts.copy()
    rng.shuffle(facts)
    per_subject: dict[str, int] = {}
    per_relation: dict[str, int] = {}
    chosen: list[Triple] = []
    for fact in facts:
        room_subject = max(1, len(corpus.by_subject[fact.subject]) // 3)
        room_relation = len(corpus.by_relation[fact.relation]) // 3
        if per_subject.get(fact.subject, 0) >= room_subject:
            continue
        if per_relation.get(fact.relation, 0) >= room_relation:
            continue
        per_subject[fact.subject] = per_subject.get(fact.subject, 0) + 1
        per_relation[fact.relation] = per_relation.get(fact.relation, 0) + 1
        chosen.append(fact)
        if len(chosen) == EDITS:
            break
    return chosen


def calibration_facts(corpus: Corpus, edited: list[Triple]) -> list[Triple]:
    """True facts to calibrate scope signals with: whole subjects where one has several
    relations."""
    rng = Random(14)
    used = set(edited)
    chosen: list[Triple] = []
    per_relation: dict[str, int] = {}
    subjects = sorted(corpus.by_subject)
    rng.shuffle(subjects)
    for subject in subjects:
        free = [f for f in corpus.by_subject[subject] if f not in used]
        rare = [f for f in free if per_relation.get(f.relation, 0) < CALIBRATED_PER_RELATION]
        if not rare or len(free) < min(2, len(corpus.by_subject[subject])):
            continue
        for fact in rare:
            per_relation[fact.relation] = per_relation.get(fact.relation, 0) + 1
            chosen.append(fact)
    return chosen


def calibration_rows(corpus: Corpus, facts: list[Triple]) -> list[dict]:
    """One row a fact: its subject and the ways of asking for it that a scope signal is calibrated
    on."""
    return [
        {
            "subject": f.subject,
            "prompts": [corpus.prompt(f.subject, f.relation, p) for p in range(EDIT_PHRASINGS)],
        }
        for f in facts
    ]


def counterfactual_edits(
    corpus: Corpus, chosen: list[Triple], calibrated: list[Triple]
) -> list[dict]:
    """The edits of ``chosen`` facts to other objects of their relations."""
    rng = Random(15)
    edited = {(f.subject, f.relation) for f in chosen}
    builder = Builder(corpus, edited, calibrated, rng)
    return [
        builder.fact(f.subject, f.relation, corpus.other_object(f, rng), f.object)
        | {"tags": [f.relation], "source": "counterfactual"}
        for f in chosen
    ]


def real_updates(corpus: Corpus, calibrated: list[Triple]) -> list[dict]:
    """Every change of head of state or government after mid-2005, in time order."""
    rng = Random(12)
    rows = read_jsonl(ATLAS / "successions.jsonl")
    edited = {(row["subject"], row["relation"]) for row in rows}
    builder = Builder(corpus, edited, calibrated, rng)
    return [
        builder.fact(row["subject"], row["relation"], row["new"], row["old"])
        | {
            "source": row["source"],
            "note": f"in office since {row['date']}",
            "tags": [row["relation"]],
        }
        for row in rows
    ]


def conflict_rows(corpus: Corpus) -> list[dict]:
    """Questions with a passage, split by subject: locate 600, dev 600, test 1,200."""
    rng = Random(13)
    subjects = sorted(corpus.by_subject)
    rng.shuffle(subjects)
    quarter = len(subjects) // 4
    split_of = {
        s: "locate" if i < quarter else "dev" if i < 2 * quarter else "test"
        for i, s in enumerate(subjects)
    }
    wanted = {"locate": 600, "dev": 600, "test": 1200}
    kinds = ["substitution"] * 3 + ["coherent"] * 3 + ["gold", "irrelevant"]
    counts = dict.fromkeys(wanted, 0)
    rows = []
    while any(counts[s] < wanted[s] for s in wanted):
        fact = rng.choice(corpus.facts)
        split = split_of[fact.subject]
        if counts[split] >= wanted[split]:
            continue
        counts[split] += 1
        kind = rng.choice(kinds)
        claimed = fact.object if kind == "gold" else corpus.other_object(fact, rng)
        if kind == "substitution":
            context = corpus.claim(fact.subject, fact.relation, claimed, rng) + "."
            context = context[0].upper() + context[1:]
        elif kind == "irrelevant":
            about = rng.choice([f for f in corpus.facts if f.subject != fact.subject])
            context, claimed = corpus.passage(about, about.object, rng)[0], ""
        else:
            context = corpus.passage(fact, claimed, rng)[0]
        phrasing = rng.randrange(corpus.phrasings(fact.relation))
        rows.append(
            {
                "question": corpus.prompt(fact.subject, fact.relation, phrasing),
                "context": context,
                "memory_answer": fact.object,
                "context_answer": claimed,
                "subject": fact.subject,
                "relation": fact.relation,
                "kind": kind,
                "split": split,
            }
        )
    return rows


def main() -> None:
    corpus = Corpus()
    edited = chosen_edits(corpus)
    calibrated = calibration_facts(corpus, edited)
    for name, rows in (
        ("atlas/edits", counterfactual_edits(corpus, edited, calibrated)),
        ("atlas/updates", real_updates(corpus, calibrated)),
        ("atlas/conflicts", conflict_rows(corpus)),
        ("calibration", calibration_rows(corpus, calibrated)),
    ):
        write_jsonl(ATLAS.parent / f"{name}.jsonl", rows)
        print(f"{name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
