"""The key router: who is named, whose own prompts open, and what cannot move a decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_edits import FACTS, edit

from editors.errors import StateMismatch
from editors.heads.head_mask import Head, HeadMask, Resolution
from editors.model.tokenization import Row, encode_prompt
from editors.scope.base import Decision
from editors.scope.calibration import Calibration, Phrasings
from editors.scope.keys import Subjects

Wises = Callable[..., Any]


# --- subjects ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "text", "named"),
    [
        ("France", "The capital of France is", True),
        ("France", "the capital of FRANCE's neighbour", True),
        ("France", "a Frances by name", False),
        ("New York", "New York is large", True),
        ("New York", "New Yorkers are many", False),
        ("New York", "York is New", False),
        ("C++", "who wrote C++ ?", True),
        ("U.S.", "the U.S. is", True),
        ("U.S.", "the US is", False),
        ("St. John's", "where is St. John's?", True),
        ("Straße", "die STRASSE", True),
        ("!!!", "the band !!! plays", True),
        ("Porto", "In which country is Porto?", True),
        ("Porto", "In which country is Porto Alegre?", False),
        ("Guinea", "The capital of Guinea-Bissau is", False),
        ("Porto", "Is Porto Alegre larger than Porto?", True),
        ("Porto", "The Capital Of Porto Is", True),
        ("Porto", "THE MAYOR OF PORTO WAS", True),
        ("amber", "is amber Baltic or not", True),
        ("フランス", "フランスの首都は", True),  # nothing shows where such a name ends
        ("東京", "日本の首都は東京です", True),
        ("프랑스", "프랑스의 수도는", True),
        ("ไทย", "เมืองหลวงของไทยคือ", True),
        ("Tokyo", "Tokyoの首都", True),
        ("Tokyo", "Tokyoite", False),
        ("フランス", "ドイツの首都は", False),
        (None, "anything at all", True),
    ],
)
def test_a_subject_is_named_as_whole_words(subject: str | None, text: str, named: bool) -> None:
    assert Subjects([subject]).named_in(text) == ([0] if named else [])


words = st.text(alphabet="abcé' .+-", min_size=1, max_size=8).filter(
    lambda s: s.strip() == s and any(c.isalnum() for c in s)
)


@given(subject=words, before=words, after=words)
def test_a_subject_between_other_words_is_always_found(
    subject: str, before: str, after: str
) -> None:
    found = Subjects(["zz", subject]).named_in(f"{before} {subject} {after}")
    assert 1 in found
    assert found == sorted(set(found))


# --- decisions --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edited(tiny_wise: Wises) -> tuple[Any, Any]:
    method = tiny_wise("llama")
    return method, edit(method, FACTS).state


def lenient(state: Any) -> Any:
    """``state`` with a threshold for prompts that name the subject which all of them pass."""
    _, unnamed, same = state.router["calibrated"].tolist()
    return replace(
        state, router={**state.router, "calibrated": torch.tensor([-1.0, unnamed, same])}
    )


def decide(edited: tuple[Any, Any], texts: list[str]) -> list[Decision]:
    """What attaching routes each text to, each in a forward of its own."""
    method, state = edited
    found = []
    with method.attach(state) as here, torch.no_grad():
        for text in texts:
            ids = torch.tensor([encode_prompt(method.base.tokenizer, text)])
            method.base.model(input_ids=ids)
            found += here.decisions
    return found


def test_the_prompt_of_a_fact_opens_its_own_shard(edited: tuple[Any, Any]) -> None:
    _, state = edited
    for fact, decision in zip(FACTS, decide(edited, [f.prompt for f in FACTS]), strict=True):
        assert decision.opened
        assert decision.fact == fact.id
        assert decision.shard == state.shard_of()[fact.id]
        assert decision.score > decision.threshold


def test_a_prompt_that_names_no_subject_stays_on_main(edited: tuple[Any, Any]) -> None:
    others = ["the capital of Spain is", "who plays the piano ?", "the river of Kenya is", "red"]
    assert not any(decision.opened for decision in decide(edited, others))


def test_a_fact_without_a_subject_opens_for_its_own_prompt(tiny_wise: Wises) -> None:
    from editors import Fact

    method = tiny_wise("llama")
    fact = Fact("who speaks Italian in Rome ?", "Eva")
    state = edit(method, [fact]).state
    assert decide((method, state), [fact.prompt])[0].fact == fact.id


def test_deciding_together_is_deciding_alone(edited: tuple[Any, Any]) -> None:
    texts = [f.prompt for f in FACTS] + ["of Peru", "France is a country in", "the sea", "Japan"]
    method, state = edited
    alone = decide(edited, texts)
    encoded = [encode_prompt(method.base.tokenizer, text) for text in texts]
    for side in ("left", "right"):
        batch = method.base.batch([Row(ids, len(ids)) for ids in encoded], side=side)
        with method.attach(state) as here, torch.no_grad():
            method.base.model(input_ids=batch.ids, attention_mask=batch.mask)
        assert [(d.shard, d.fact) for d in here.decisions] == [(d.shard, d.fact) for d in alone]
        assert [d.score for d in here.decisions] == pytest.approx(
            [d.score for d in alone], abs=1e-4
        )


def test_the_router_is_fitted_the_same_way_twice(tiny_wise: Wises) -> None:
    one, two = (edit(tiny_wise("llama"), FACTS[:2]).state for _ in range(2))
    assert one.router.keys() == two.router.keys()
    assert all(torch.equal(one.router[name], two.router[name]) for name in one.router)
    assert list(one.seen) == list(two.seen)
    for fact, seen in one.seen.items():
        assert torch.equal(seen.keys, two.seen[fact].keys)
        assert torch.equal(seen.rivals, two.seen[fact].rivals)


def test_other_questions_of_the_calibration_stay_on_main(edited: tuple[Any, Any]) -> None:
    """Put to an edit's subject they compete with the edit, unless they ask the same thing.

    With a threshold that all pass, so that nothing but a rival keeps a prompt out.
    """
    method, state = edited
    state = lenient(state)
    calibration = Calibration.from_tensors(state.router)
    assert len(calibration.templates) == 6
    kept_out = 0
    assert sum(len(of_fact.rivals) for of_fact in state.seen.values()) > 0
    for fact, of_fact in zip(FACTS, state.seen.values(), strict=True):
        assert bool(((of_fact.rivals @ of_fact.keys.T) < calibration.same).all())
        asked = [text.replace("{s}", str(fact.subject)) for text in calibration.templates]
        decisions = decide((method, state), asked)
        assert all(not d.opened or d.score >= calibration.same for d in decisions)
        kept_out += sum(not decision.opened for decision in decisions)
    assert kept_out > 0


def test_a_router_without_templates_decides_by_its_thresholds(tiny_wise: Wises) -> None:
    method = tiny_wise("llama")
    groups = [
        Phrasings(f"red {n}", (f"the {n} of red {n} is", f"what is the {n} of red {n} ?"))
        for n in ("sea", "city", "leader", "river", "capital", "language", "author", "one", "two")
    ]
    state = edit(method, FACTS, method.empty([*groups, *groups])).state
    assert Calibration.from_tensors(state.router).templates == ()
    for fact, decision in zip(
        FACTS, decide((method, state), [f.prompt for f in FACTS]), strict=True
    ):
        assert decision.fact == fact.id
        assert decision.opened


def test_a_fact_without_a_subject_keeps_no_prompt_from_another(tiny_wise: Wises) -> None:
    from editors import Fact

    method = tiny_wise("llama")
    asked = [f"Ann wrote , {fact.prompt}" for fact in FACTS]
    more = [*FACTS, Fact("the sea is", "blue"), Fact("Ann wrote , the", "red")]
    alone = decide((method, lenient(edit(method, FACTS).state)), asked)
    beside = decide((method, lenient(edit(method, more).state)), asked)
    opened = [d.fact for d in alone if d.opened]
    assert opened
    assert [d.fact for d, before in zip(beside, alone, strict=True) if before.opened] == opened


def test_what_the_shards_hold_moves_no_decision(edited: tuple[Any, Any]) -> None:
    """Decisions are taken on the base."""
    method, state = edited
    texts = [fact.prompt for fact in FACTS]
    louder = tuple(
        replace(record, shard=replace(record.shard, values=record.shard.values * 50))
        for record in state.shards
    )
    assert decide((method, replace(state, shards=louder)), texts) == decide(edited, texts)


def test_the_forward_that_answers_is_the_one_that_is_routed(edited: tuple[Any, Any]) -> None:
    """The base reads a prompt once; what is decided on the way is what a look of its own decides,

    as it is taken where heads are pruned.
    """
    method, state = edited
    texts = [f"Ann wrote , {fact.prompt}" for fact in FACTS] + ["the sea", FACTS[0].prompt]
    rows = [encode_prompt(method.base.tokenizer, text) for text in texts]
    batch = method.base.batch([Row(ids, len(ids)) for ids in rows])
    runs = []
    first = method.base.model.get_submodule(method.base.architecture.block(0).path)
    with method.attach(state) as here, torch.no_grad():
        hook = first.register_forward_hook(lambda *_: runs.append(True))
        method.base.model(input_ids=batch.ids, attention_mask=batch.mask)
        hook.remove()
    assert len(runs) == 1
    mask = HeadMask((Head(2, 0),))
    pruned = replace(state, resolution=Resolution("memory", mask, state.edits))
    looked = decide((method, pruned), texts)
    assert [(d.shard, d.fact) for d in here.decisions] == [(d.shard, d.fact) for d in looked]
    for one, other in zip(here.decisions, looked, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_a_calibration_of_another_release_is_refused(edited: tuple[Any, Any]) -> None:
    router = edited[1].router
    kept = Calibration.from_tensors(router).tensors()
    assert kept.keys() == router.keys()
    assert all(torch.equal(kept[name], router[name]) for name in kept)
    for name in router:
        with pytest.raises(StateMismatch, match=f"lacks {name}"):
            Calibration.from_tensors({key: t for key, t in router.items() if key != name})


# --- a passage that is preferred -------------------------------------------------------------


def preferring(edited: tuple[Any, Any], prefer: Any) -> tuple[Any, Any]:
    method, state = edited
    return method, replace(state, resolution=Resolution(prefer, HeadMask(), state.edits))


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.id)
def test_the_gate_yields_to_a_passage_that_speaks_of_the_edited_fact(
    edited: tuple[Any, Any], fact: Any
) -> None:
    prompt = f"{fact.prompt} red . {fact.prompt}"
    method, state = edited
    asked = method, lenient(state)
    as_it_is = decide(asked, [prompt])[0]
    assert decide(preferring(asked, "memory"), [prompt]) == [as_it_is]
    preferred = decide(preferring(asked, "context"), [prompt])[0]
    assert preferred.yielded == as_it_is.opened
    assert preferred == replace(as_it_is, shard=-1, yielded=as_it_is.opened)


def test_the_gate_yields_to_nothing_but_a_passage(edited: tuple[Any, Any]) -> None:
    """One mention of the subject is the question's own; another question's subject is another."""
    asked = edited[0], lenient(edited[1])
    prompts = [fact.prompt for fact in FACTS]
    prompts += [f"the sea is red . {fact.prompt}" for fact in FACTS]
    prompts += [
        f"{other.prompt} red . {fact.prompt}"
        for fact, other in pairwise(FACTS)
        if other.subject != fact.subject
    ]
    assert decide(preferring(asked, "context"), prompts) == decide(asked, prompts)
