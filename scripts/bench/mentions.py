"""Measure which subjects are found in a text: in every phrasing of the corpus, in longer names, in
lower case, in capitals, in German.

    python scripts/bench/mentions.py              # prints a Markdown table, half a minute
    python scripts/bench/mentions.py --misses 20  # and so many wrong ones of each row
    python scripts/bench/mentions.py --held-out   # the patterns that no rule was tuned on, too

Every third pattern of a longer name is held out.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from editcli.files.packaged import datasets_dir
from editors.scope.mentions import Mentions

HELD_OUT = 3  # every third pattern
FORMS = ("statement", "question", "request", "telegraphic", "personal", "near")
PHRASINGS = 40  # of a kind, that a longer name is put into
# The subject is named in these: another person is asked about, who has no name.
NOT_NAMES = ("{subject}'s grandfather", "the biographer of {subject}")

GERMAN = (
    "Die Hauptstadt {s}s ist",
    "Wie heißt die Hauptstadt von {s}?",
    "{s} Hauptstadt",
    "Hauptstadt {s}",
    "Wie viele Einwohner hat {s} Stand heute?",
    "Ist {s} Mitglied der Vereinten Nationen?",
    "Welche Sprache spricht man in {s}?",
    "Nenne mir bitte die Währung von {s}.",
    "Der Regierungschef von {s} heißt",
    "Wann wurde in {s} Präsident Müller gewählt?",
    "Seit wann ist {s} Republik?",
    "Was kostet in {s} Benzin?",
    "Welche Farben hat die Flagge {s}s?",
    "Ich fahre bald nach {s}. Welche Währung brauche ich dort?",
    "Die Einwohnerzahl von {s} beträgt",
    "Gibt es in {s} Löwen und Elefanten?",
    "Liegt {s} am Meer?",
    "Sag mir, wer in {s} Staatsoberhaupt ist.",
    "Wer war der erste Präsident von {s}?",
    "Auf welchem Kontinent liegt {s} und welche Nachbarn hat das Land?",
)
GERMAN_LONGER = (
    "Wann wurde {s} Airways gegründet?",
    "Was kostet {s} 11?",
    "Wann regierte {s} III. von England?",
)


@dataclass(frozen=True, slots=True)
class Case:
    """A text with a name that is edited, and whether the name has to be found in it."""

    text: str
    name: str
    found: bool


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def filled(phrasing: str, name: str) -> str:
    """``phrasing`` with ``name`` for the subject, and one article where both have it."""
    if name.startswith("the ") and re.search(r"\b(the|a|an) \{subject\}", phrasing, re.IGNORECASE):
        name = name.removeprefix("the ")
    text = phrasing.replace("{subject}", name)
    return text[0].upper() + text[1:] if phrasing.startswith("{subject}") else text


class Corpus:
    """The relations of the corpus and its patterns of longer names."""

    def __init__(self) -> None:
        folder = datasets_dir() / "phrasings"
        self.relations = [
            row
            for path in sorted(folder.glob("relations/*.jsonl"))
            for row in lines(path)
            if row["subjects"]
        ]
        self.patterns = lines(folder / "longer-names.jsonl")
        self.subjects: dict[str, set[str]] = defaultdict(set)
        self.phrasings: dict[str, list[str]] = defaultdict(list)
        for row in self.relations:
            self.subjects[row["kind"]].update(row["subjects"])
            for form in FORMS:
                self.phrasings[row["kind"]] += row[form]

    def named(self, form: str) -> Iterator[Case]:
        """Each phrasing of ``form`` with each subject of its relation."""
        for row in self.relations:
            for phrasing in row[form]:
                for subject in row["subjects"]:
                    yield Case(phrasing.replace("{subject}", subject), subject, True)

    def longer(self, numbers: Iterable[int]) -> Iterator[Case]:
        """Each of these patterns with subjects of its kinds, in phrasings of the kind."""
        rng = Random(0)
        for number in numbers:
            pattern = self.patterns[number]
            for kind in pattern["kinds"]:
                subjects, phrasings = sorted(self.subjects[kind]), self.phrasings[kind]
                for phrasing in rng.sample(phrasings, min(PHRASINGS, len(phrasings))):
                    subject = rng.choice(subjects)
                    name = pattern["pattern"].replace("{subject}", subject)
                    yield Case(filled(phrasing, name), subject, False)

    def german(self) -> Iterator[Case]:
        for country in sorted(self.subjects["country"]):
            for text in GERMAN:
                name = f"{country}s" if "{s}s" in text else country
                yield Case(text.replace("{s}", country), name, True)
            for text in GERMAN_LONGER:
                if "{s}" in text:
                    yield Case(text.replace("{s}", country), country, False)


def recased(cases: Iterable[Case], change: Callable[[str], str]) -> Iterator[Case]:
    for case in cases:
        yield Case(change(case.text), case.name, case.found)


def wrong(cases: Iterable[Case]) -> tuple[int, list[Case]]:
    """How many cases there are, and those that are decided wrongly."""
    decided = [
        (case, bool(Mentions([[case.name]]).find(case.text)) == case.found) for case in cases
    ]
    return len(decided), [case for case, right in decided if not right]


def report(what: str, cases: Iterable[Case], shown: int) -> None:
    count, bad = wrong(cases)
    print(f"| {what} | {count} | {len(bad) / max(count, 1):.4f} |", flush=True)
    for case in Random(0).sample(bad, min(shown, len(bad))):
        print(f"    {case.name!r} in {case.text!r}")


def speed(corpus: Corpus) -> None:
    """How long 10,000 names take to be indexed, and a text of 1,000 words to be searched."""
    rng = Random(0)
    names = sorted({name for of_kind in corpus.subjects.values() for name in of_kind})
    words = [
        word for of_kind in corpus.phrasings.values() for text in of_kind for word in text.split()
    ]
    many = [[f"{rng.choice(names)} {rng.choice(names)} {i}"] for i in range(10_000 - len(names))]
    started = time.perf_counter()
    mentions = Mentions([*many, *([name] for name in names)])
    indexed = time.perf_counter() - started
    text = " ".join(
        rng.choice(names) if rng.random() < 0.05 else rng.choice(words) for _ in range(1000)
    )
    times = []
    for _ in range(20):
        started = time.perf_counter()
        found = len(mentions.find(text))
        times.append(time.perf_counter() - started)
    print(
        f"\n10,000 facts are indexed in {indexed:.2f} s; a text of {len(text.split())} words, with "
        f"{found} mentions, is searched in {1000 * min(times):.1f} ms."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--misses", type=int, default=0, help="how many wrong ones are printed")
    parser.add_argument("--held-out", action="store_true", help="measure the held-out patterns")
    arguments = parser.parse_args()
    corpus, shown = Corpus(), arguments.misses
    names = [i for i, p in enumerate(corpus.patterns) if p["pattern"] not in NOT_NAMES]
    known = [number for number in names if number % HELD_OUT != HELD_OUT - 1]
    held_out = [number for number in names if number % HELD_OUT == HELD_OUT - 1]
    print("| texts | number | wrong |\n|---|---|---|")
    for form in FORMS:
        report(f"the subject in {form} phrasings", corpus.named(form), shown)
    everything = [case for form in FORMS for case in corpus.named(form)]
    report("the subject in any phrasing", everything, 0)
    report("the same in lower case", recased(everything, str.lower), shown)
    report("the same in capitals", recased(everything, str.upper), shown)
    report("the same, each word capitalised", recased(everything, str.title), shown)
    report("a longer name", corpus.longer(known), shown)
    report("a longer name in lower case", recased(corpus.longer(known), str.lower), shown)
    if arguments.held_out:
        report("a longer name, held out", corpus.longer(held_out), shown)
        report("the same in lower case", recased(corpus.longer(held_out), str.lower), shown)
        for number in held_out:
            report(f"`{corpus.patterns[number]['pattern']}`", corpus.longer([number]), 0)
    german = list(corpus.german())
    report("German, the subject", [case for case in german if case.found], shown)
    report("German, a longer name", [case for case in german if not case.found], shown)
    speed(corpus)


if __name__ == "__main__":
    main()
