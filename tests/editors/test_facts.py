"""A fact is refused with every reason at once, and survives JSON unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editors import Fact, InvalidFact, Probe
from editors.facts import NEAR_KINDS
from editors.text_matching.names import folded_name

GOOD: dict[str, Any] = {"prompt": "The capital of France is", "target": "Lyon"}

# Surrogates cannot be written as UTF-8 and are refused, which has its own test.
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text == text.strip() != ""
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
few = st.lists(words, max_size=3).map(tuple)
maybe = st.none() | words


@st.composite
def facts(draw: st.DrawFn) -> Fact:
    prompt = draw(words)
    subject = prompt if folded_name(prompt) and draw(st.booleans()) else None
    aliases = draw(st.sampled_from([(), ("Albion",), ("the Isle", "Al-Bion")])) if subject else ()
    kinds = st.sampled_from([*NEAR_KINDS, "near", "far"])
    return Fact(
        prompt=prompt,
        target=draw(words),
        subject=subject,
        aliases=aliases,
        ground_truth=draw(maybe),
        rephrases=draw(few),
        variants=draw(few),
        locality=draw(st.lists(st.builds(Probe, words, maybe, kinds), max_size=2).map(tuple)),
        portability=draw(st.lists(st.builds(Probe, words, words), max_size=2).map(tuple)),
        source=draw(maybe),
        author=draw(maybe),
        note=draw(maybe),
        tags=draw(few),
        id=draw(st.just("") | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,20}", fullmatch=True)),
        extra=tuple(
            sorted(
                (f"x_{key}", json.dumps(value, ensure_ascii=False))
                for key, value in draw(st.dictionaries(words, json_values, max_size=2)).items()
            )
        ),
    )


@given(facts())
def test_a_fact_survives_a_json_round_trip(fact: Fact) -> None:
    assert Fact.from_dict(json.loads(json.dumps(fact.to_dict()))) == fact


@given(facts())
def test_facts_can_be_hashed(fact: Fact) -> None:
    assert len({fact, Fact.from_dict(fact.to_dict())}) == 1


def test_the_id_is_the_start_of_the_hash_of_prompt_target_and_subject() -> None:
    text = '["Zürich lies in","Österreich",null]'
    fact = Fact("Zürich lies in", "Österreich")
    assert fact.id == fact.canonical_id() == sha256(text.encode()).hexdigest()[:12]


def test_the_id_ignores_everything_but_prompt_target_and_subject() -> None:
    plain, rich = Fact(**GOOD), Fact(**GOOD, note="why", rephrases=("France's capital is",))
    assert plain.id == rich.id
    assert plain.id != Fact(**GOOD, subject="France").id


def test_an_explicit_id_is_kept_and_written_back() -> None:
    assert Fact.from_dict({**GOOD, "id": "case-7"}).to_dict() == {**GOOD, "id": "case-7"}


def test_the_plain_form_holds_only_what_was_set() -> None:
    assert Fact(**GOOD).to_dict() == GOOD


def test_null_means_the_key_is_absent() -> None:
    assert Fact.from_dict({**GOOD, "subject": None, "rephrases": None, "id": None}) == Fact(**GOOD)


def test_own_keys_are_kept_when_they_start_with_x() -> None:
    own = {"x_ticket": {"url": "https://example.org", "n": [1, 2.5, None]}, "x_empty": None}
    assert Fact.from_dict({**GOOD, **own}).to_dict() == {**GOOD, **own}


def test_a_prompt_may_end_with_a_line_break() -> None:
    assert Fact("Question: who?\n", "Ada").prompt.endswith("\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": None}, "prompt: is required"),
        ({"target": None}, "target: is required"),
        ({"prompt": ""}, "prompt: must not be empty"),
        ({"prompt": "   "}, "prompt: must not be empty"),
        ({"prompt": "The capital of France is "}, "prompt: must not end with a space"),
        ({"prompt": 3}, "prompt: must be text, not the number 3"),
        ({"prompt": "half \ud800"}, "prompt: must be valid Unicode"),
        ({"target": ""}, "target: must not be empty"),
        ({"target": " Lyon"}, "target: must not start with a space"),
        ({"target": ["Lyon"]}, "target: must be text, not a list"),
        ({"subject": "Spain"}, "subject: 'Spain' does not occur in the prompt as a whole word"),
        ({"subject": "Franc"}, "'Franc' does not occur in the prompt as a whole word (the nearest"),
        ({"subject": "\u200b"}, "does not occur in the prompt as a whole word"),
        ({"subject": ""}, "subject: must not be empty"),
        ({"subject": True}, "subject: must be text, not true"),
        ({"aliases": ["Gaul"]}, "aliases: need a subject"),
        ({"aliases": "Gaul", "subject": "France"}, "aliases: must be a list, not text"),
        ({"aliases": [" "], "subject": "France"}, "aliases[0]: must not be empty"),
        ({"aliases": ["\u200b"], "subject": "France"}, "holds no character that can be seen"),
        ({"aliases": ["FRANCE"], "subject": "France"}, "aliases: 'FRANCE' is the subject or an"),
        (
            {"aliases": ["Gaul", "the gaul"], "subject": "France"},
            "aliases: 'the gaul' is the subject or an alias before it",
        ),
        ({"ground_truth": 1.5}, "ground_truth: must be text, not the number 1.5"),
        ({"rephrases": "one"}, "rephrases: must be a list, not text"),
        ({"rephrases": ["fine", ""]}, "rephrases[1]: must not be empty"),
        ({"variants": [{"prompt": "x"}]}, "variants[0]: must be text, not an object"),
        ({"variants": ["ends "]}, "variants[0]: must not end with a space"),
        ({"locality": {"prompt": "x"}}, "locality: must be a list, not an object"),
        ({"locality": ["x"]}, "locality[0]: must be an object, not text"),
        ({"locality": [{}]}, "locality[0].prompt: is required"),
        ({"locality": [{"prompt": "x", "answer": 2}]}, "locality[0].answer: must be text"),
        (
            {"locality": [{"prompt": "x", "kind": "nearby"}]},
            "locality[0].kind: must be 'relation', ",
        ),
        (
            {"locality": [{"prompt": "x", "answr": "y"}]},
            "locality[0]: unknown key 'answr' (did you mean 'answer'?)",
        ),
        ({"portability": [{"prompt": "x"}]}, "portability[0].answer: is required"),
        (
            {"portability": [{"prompt": "x", "answer": "y", "kind": "near"}]},
            "portability[0]: unknown key 'kind'",
        ),
        ({"tags": [7]}, "tags[0]: must be text, not the number 7"),
        ({"source": {}}, "source: must be text, not an object"),
        ({"author": ""}, "author: must not be empty"),
        ({"note": []}, "note: must be text, not a list"),
        ({"id": "two words"}, "id: 'two words' must be 1 to 64 of the characters"),
        ({"id": 12}, "id: must be text, not the number 12"),
        ({"promt": "x"}, "unknown key 'promt' (did you mean 'prompt'?)"),
        ({"colour": "x"}, "unknown key 'colour'"),
        ({"x_nan": float("nan")}, "x_nan: must be plain JSON"),
        ({"extra": [["x_a", "1"]]}, "unknown key 'extra'"),
    ],
)
def test_a_broken_rule_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidFact) as caught:
        Fact.from_dict({**GOOD, **change})
    assert message in caught.value.message
    assert "; " not in caught.value.message, "one mistake gives one problem"


def test_all_problems_of_a_fact_are_named_at_once() -> None:
    bad: dict[str, Any] = {"prompt": "Paris is in", "target": "", "subject": "Franc", "promt": "x"}
    bad["x_set"] = {1}
    with pytest.raises(InvalidFact) as caught:
        Fact.from_dict(bad)
    assert caught.value.message == (
        "target: must not be empty; "
        "subject: 'Franc' does not occur in the prompt as a whole word; "
        "unknown key 'promt' (did you mean 'prompt'?); x_set: must be plain JSON"
    )
    assert caught.value.exit_code == 2


def test_a_fact_built_in_python_obeys_the_same_rules() -> None:
    with pytest.raises(InvalidFact, match="subject: 'Spain' does not occur"):
        Fact(**GOOD, subject="Spain")
    with pytest.raises(InvalidFact, match="unknown key 'kind'"):
        Fact(**GOOD, portability=(Probe("x", "y", "near"),))


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("St. John\u2019s lies in", "St. John's"),
        ("Bras\u00edlia lies in", "Brasi\u0301lia"),
        ("the capital of\nNew\u00a0 York is", "new york"),
        ("The UK's capital is", "the UK"),
    ],
)
def test_a_subject_may_be_spelt_in_another_way_than_the_prompt(prompt: str, subject: str) -> None:
    assert Fact(prompt, "x", subject).subject == subject


def test_a_subject_inside_a_word_is_refused_with_the_word() -> None:
    with pytest.raises(InvalidFact, match=r"'dog' does not .* \(the nearest is 'dogs'\)"):
        Fact("The dogs of the village bark at", "night", subject="dog")


def test_aliases_do_not_change_the_id() -> None:
    with_alias = Fact(**GOOD, subject="France", aliases=("Gaul",))
    assert with_alias.id == Fact(**GOOD, subject="France").id
    assert with_alias.to_dict()["aliases"] == ["Gaul"]


def test_a_prompt_is_trained_with_each_alias_and_one_article() -> None:
    fact = Fact(
        "The UK is an island, and the UK has",
        "rain",
        "UK",
        aliases=("the United Kingdom", "Albion"),
        variants=("What has the UK?",),
    )
    assert fact.trained_prompts() == (
        fact.prompt,
        "What has the UK?",
        "The United Kingdom is an island, and the United Kingdom has",
        "The Albion is an island, and the Albion has",
    )


def test_a_probe_is_near_unless_it_is_far() -> None:
    assert not Probe("x").near
    assert all(Probe("x", kind=kind).near for kind in (*NEAR_KINDS, "near"))


def test_facts_need_no_torch() -> None:
    code = "import sys, editors; editors.Fact('a', 'b'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(json_values)
def test_any_json_value_is_judged_without_a_crash(value: object) -> None:
    with pytest.raises(InvalidFact, match="unknown key 'any'"):
        Fact.from_dict({**GOOD, "any": [value], "locality": value, "rephrases": value, "id": value})
