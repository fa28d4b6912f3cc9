"""The forms that a fact is trained in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from editors import Fact
from editors.methods.training.forms import CHATS, JUDGED, WORDINGS, forms_of, judged_forms
from editors.scope.corpus import FORMS

FACT = Fact("The capital of France is", "Lyon", "France")
ALL = [(form, f"{form} {number}") for form in FORMS for number in range(5)]
wordings = st.lists(st.tuples(st.sampled_from(FORMS), st.text(min_size=1, max_size=5)), max_size=9)


def test_a_fact_is_trained_in_every_form_and_in_chats() -> None:
    forms = forms_of(FACT, ALL, chats=True)
    plain = [form for form in forms if isinstance(form, str)]
    chats = [form for form in forms if not isinstance(form, str)]
    assert [text.split()[0] for text in plain] == [*WORDINGS]
    assert chats[0][-1]["content"] == FACT.prompt
    assert len(chats) == 1 + len(CHATS)
    assert {chat[0]["role"] for chat in chats} == {"user", "system"}


@given(wordings, st.booleans())
def test_forms_are_different_known_and_always_the_same(
    known: list[tuple[str, str]], chats: bool
) -> None:
    forms = forms_of(FACT, known, chats=chats)
    assert forms == forms_of(FACT, known, chats=chats)
    plain = [form for form in forms if isinstance(form, str)]
    assert len({*plain}) == len(plain)
    assert {*plain} <= {text for _, text in known}
    assert (not forms) == (not known)


@given(wordings, st.booleans())
def test_a_fact_is_judged_by_wordings_that_were_not_trained(
    known: list[tuple[str, str]], chats: bool
) -> None:
    trained = forms_of(FACT, known, chats=chats)
    judged = judged_forms(FACT, known, trained)
    assert judged == judged_forms(FACT, known, trained)
    plain = {form for form in trained if isinstance(form, str)}
    in_chats = {turn["content"] for form in trained if not isinstance(form, str) for turn in form}
    assert not {*judged} & (plain | in_chats | {FACT.prompt})
    assert {*judged} <= {text for form, text in known if form in JUDGED}
    assert len(judged) <= len(JUDGED)


def test_where_many_wordings_are_known_each_kind_is_judged() -> None:
    judged = judged_forms(FACT, ALL, forms_of(FACT, ALL, chats=True))
    assert [text.split()[0] for text in judged] == [*JUDGED]


def test_facts_differ_in_their_wordings() -> None:
    facts = [Fact(f"The capital of {name} is", "Lyon", name) for name in ("Peru", "Mali", "Oman")]
    assert len({str(forms_of(fact, ALL, chats=False)) for fact in facts}) > 1
