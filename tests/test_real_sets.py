"""The measuring sets for real models: facts in two halves, in words that no signal learns from."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from editors.facts import Fact, ProbeKind

ROOT = Path(__file__).resolve().parents[1] / "datasets"
HALVES = ("dev", "test")
NEAR = {"relation", "subject", "mention", "name", "time", "amount"}
ROW_KINDS = {"relation", "subject", "mention", "name", "time", "turn"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


WELL_KNOWN = {half: lines(ROOT / "real" / f"well-known-{half}.jsonl") for half in HALVES}
RULES = {half: lines(ROOT / "real" / f"rules-{half}.jsonl") for half in HALVES}
CHATS = {half: lines(ROOT / "real" / f"chats-{half}.jsonl") for half in HALVES}
FILES = {
    **{f"well-known-{half}": WELL_KNOWN[half] for half in HALVES},
    **{f"rules-{half}": RULES[half] for half in HALVES},
}


def folded(text: str) -> str:
    return " ".join(text.casefold().split())


def mention(subject: str) -> re.Pattern[str]:
    """Finds ``subject`` as a whole word."""
    return re.compile(rf"(?<!\w){re.escape(subject)}(?!\w)", re.IGNORECASE)


def asking(fact: dict[str, Any]) -> list[str]:
    return [fact["prompt"], *fact["rephrases"]]


def probes(fact: dict[str, Any]) -> list[str]:
    return [probe["prompt"] for probe in fact["locality"]]


def kinds(fact: dict[str, Any]) -> Counter[str]:
    return Counter(probe["kind"] for probe in fact["locality"])


def texts(half: str) -> Iterator[str]:
    for fact in WELL_KNOWN[half] + RULES[half]:
        yield from asking(fact)
        yield from probes(fact)
    for row in CHATS[half]:
        yield "\n".join(turn["content"] for turn in row["turns"])


@pytest.mark.parametrize("name", FILES)
def test_each_row_is_a_fact(name: str) -> None:
    for row in FILES[name]:
        kept = (probe["kind"] in get_args(ProbeKind) for probe in row["locality"])
        coarse = [
            probe if keep else {**probe, "kind": "near"}
            for probe, keep in zip(row["locality"], kept, strict=True)
        ]
        fact = Fact.from_dict({**row, "locality": coarse})
        assert fact.target != fact.ground_truth
        assert not fact.variants
        assert fact.tags


def test_the_sets_have_the_promised_sizes() -> None:
    for half, rows in zip(HALVES, ((80, 40), (40, 20)), strict=True):
        assert (len(WELL_KNOWN[half]), len(RULES[half])) == rows
        assert len({fact["tags"][0] for fact in WELL_KNOWN[half]}) >= 12
        assert len(CHATS[half]) >= 60


def test_no_text_stands_twice_in_a_half_or_in_both() -> None:
    counts = Counter(folded(text) for half in HALVES for text in texts(half))
    assert [text for text, count in counts.items() if count > 1] == []


def test_the_halves_share_no_subject_and_no_wording() -> None:
    dev, test = (
        {
            folded(mention(fact["subject"]).sub("{subject}", text))
            for fact in WELL_KNOWN[half]
            for text in asking(fact)
        }
        | {folded(fact["subject"]) for fact in WELL_KNOWN[half]}
        for half in HALVES
    )
    assert dev & test == set()


@pytest.mark.parametrize("half", HALVES)
def test_a_well_known_fact_has_its_forms_and_kinds(half: str) -> None:
    for fact in WELL_KNOWN[half]:
        names_subject = mention(fact["subject"]).search
        assert len(fact["rephrases"]) >= 6
        assert all(names_subject(text) for text in asking(fact)), fact["subject"]
        count = kinds(fact)
        assert count["relation"] in (1, 2), fact["subject"]
        assert count["subject"] >= 2, fact["subject"]
        assert (count["mention"], count["far"]) == (2, 1), fact["subject"]
        assert count["name"] in (1, 2), fact["subject"]
        assert set(count) <= NEAR | {"far"}
        for probe in fact["locality"]:
            elsewhere = probe["kind"] in ("relation", "far")
            assert bool(names_subject(probe["prompt"])) != elsewhere, probe
    assert sum(kinds(fact)["time"] for fact in WELL_KNOWN[half]) >= 15


@pytest.mark.parametrize("half", HALVES)
def test_a_rule_has_no_subject_and_its_kinds(half: str) -> None:
    for fact in RULES[half]:
        assert "subject" not in fact
        assert len(fact["rephrases"]) == 4
        count = kinds(fact)
        assert set(count) == {"amount", "time", "subject", "far"}, fact["prompt"]
        assert (4 <= count.total() - 1 <= 6, count["far"]) == (True, 1), fact["prompt"]


@pytest.mark.parametrize("half", HALVES)
def test_a_prompt_gives_neither_answer_away(half: str) -> None:
    for fact in WELL_KNOWN[half] + RULES[half]:
        for answer in (fact["target"], fact["ground_truth"]):
            said = re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)")
            assert not [text for text in asking(fact) if said.search(text)], answer


@pytest.mark.parametrize("half", HALVES)
def test_a_conversation_is_about_a_fact_of_its_half(half: str) -> None:
    facts = {fact["prompt"]: fact for fact in WELL_KNOWN[half]}
    for row in CHATS[half]:
        assert set(row) == {"fact", "turns", "kind"}
        *earlier, last = [turn["content"] for turn in row["turns"]]
        names_subject = mention(facts[row["fact"]]["subject"]).search
        assert bool(names_subject(last)) == (row["kind"] not in ("relation", "turn")), last
        if row["kind"] in ("relation", "turn"):
            assert any(map(names_subject, earlier)) == (row["kind"] == "turn"), last


@pytest.mark.parametrize("half", HALVES)
def test_turns_alternate_and_the_user_has_the_last_one(half: str) -> None:
    for row in CHATS[half]:
        roles = [turn["role"] for turn in row["turns"]]
        spoken = roles[1:] if roles[0] == "system" else roles
        assert spoken == ["user", "assistant"] * (len(spoken) // 2) + ["user"]


@pytest.mark.parametrize("half", HALVES)
def test_half_of_the_conversations_ask_for_the_fact(half: str) -> None:
    count = Counter(row["kind"] for row in CHATS[half])
    assert 0.4 <= count[None] / count.total() <= 0.6
    assert set(count) - {None} == ROW_KINDS
    systems = [row for row in CHATS[half] if row["turns"][0]["role"] == "system"]
    assert 0.2 <= len(systems) / count.total() <= 0.6


def bare(text: str, subject: str | None) -> str:
    """The words of the question: without its question-and-answer frame, subject and punctuation."""
    text = re.sub(r"^(?:Q|Question): (.*)\n(?:A|Answer):.*$", r"\1", text)
    text = mention(subject).sub("{subject}", text) if subject else text
    return " ".join(re.sub(r"[^a-z0-9{} ]", " ", text.lower().replace("'", "")).split())


def test_few_prompts_are_worded_as_in_the_corpus_that_signals_learn_from() -> None:
    forms = ("statement", "question", "request", "telegraphic", "personal", "near")
    relations = [
        relation
        for path in (ROOT / "phrasings" / "relations").glob("*.jsonl")
        for relation in lines(path)
    ]
    learnt = {
        bare(text, None) for relation in relations for form in forms for text in relation[form]
    }
    assert len(learnt) > 5000
    for name, facts in FILES.items():
        prompts = [bare(text, fact.get("subject")) for fact in facts for text in asking(fact)]
        share = sum(prompt in learnt for prompt in prompts) / len(prompts)
        assert share < 0.15, name
