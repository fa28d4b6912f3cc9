"""Templates: which prompts of a calibration ask one question, and which compete with a fact."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from editors.scope.key.questions import SUBJECT, USES, Templates
from editors.scope.phrasings import Phrasings

SUBJECTS = ("Spain", "Kenya", "Italy")
CAPITAL = ("the capital of {} is", "{} , capital :")
SEA = ("the sea of {} is", "what is the sea of {} ?")
BORN = ("{} was born in", "where was {} born ?")
PEOPLE = ("Ann", "Bob", "Cara")
DIRECTIONS = {CAPITAL: 0, SEA: 1, BORN: 2}


def group(forms: tuple[str, ...], subject: str) -> Phrasings:
    return Phrasings(subject, tuple(form.format(subject) for form in forms))


GROUPS = [
    *(group(CAPITAL, subject) for subject in SUBJECTS),
    *(group(SEA, subject) for subject in SUBJECTS),
    *(group(BORN, subject) for subject in PEOPLE),
]
QUESTIONS = [CAPITAL] * 3 + [SEA] * 3 + [BORN] * 3


def templates(groups: list[Phrasings] = GROUPS) -> Templates:
    """Each question has a direction of its own, which all its forms have, prefixed ones too."""
    keys = torch.zeros(len(groups), 3, 4)
    for number, question in enumerate(QUESTIONS[: len(groups)]):
        keys[number, :, DIRECTIONS[question]] = 1
    return Templates.of(groups, keys)


def texts(found: Templates, numbers: list[int]) -> set[str]:
    return {found.texts[number] for number in numbers}


def of(*questions: tuple[str, ...]) -> set[str]:
    return {form.format(SUBJECT) for question in questions for form in question}


def test_templates_are_the_prompts_that_several_subjects_share() -> None:
    found = templates()
    assert set(found.texts) == of(CAPITAL, SEA, BORN)
    assert found.centroids.norm(dim=1).allclose(torch.ones(6))
    for number, text in enumerate(found.texts):
        question = next(q for q in DIRECTIONS if text in of(q))
        assert found.centroids[number].argmax() == DIRECTIONS[question]
    assert templates(GROUPS[: USES - 1]).texts == ()


def test_forms_of_one_group_ask_one_question_and_those_of_one_subject_stand_beside_each_other() -> (
    None
):
    found = templates()
    number = dict(zip(found.texts, found.questions.tolist(), strict=True))
    capital, sea, born = ({number[text] for text in of(q)} for q in (CAPITAL, SEA, BORN))
    assert [len(capital), len(sea), len(born)] == [1, 1, 1]
    [one], [two], [three] = capital, sea, born
    assert len({one, two, three}) == 3
    assert found.share_subject[one, two]
    assert found.share_subject[two, one]
    assert not found.share_subject[one, three]


def test_groups_that_share_a_form_ask_the_same() -> None:
    joined = [*GROUPS, Phrasings("Peru", ("the capital of Peru is", "the sea of Peru is"))]
    keys = torch.zeros(len(joined), 3, 4)
    keys[..., 0] = 1
    found = Templates.of(joined, keys)
    number = dict(zip(found.texts, found.questions.tolist(), strict=True))
    assert len({number[text] for text in of(CAPITAL, SEA)}) == 1


def test_a_prompt_that_names_its_subject_twice_or_not_at_all_is_no_template() -> None:
    forms = ("{0} is {0}", "who is it ?")
    found = Templates.of([group(forms, s) for s in SUBJECTS], torch.ones(3, 3, 2))
    assert found.texts == ()


def fact_like(question: tuple[str, ...], share: float = 1.0) -> torch.Tensor:
    """``[1, rank]``: the key of a fact that asks ``question``, or only so much of it."""
    key = torch.zeros(4)
    key[DIRECTIONS[question]] = share
    key[3] = (1 - share**2) ** 0.5
    return F.normalize(key, dim=0)[None]


def test_what_asks_something_else_competes_and_what_asks_the_same_does_not() -> None:
    found = templates()
    unlike = found.unlike(fact_like(CAPITAL), named=0.5, same=0.9)
    assert texts(found, unlike) == of(SEA, BORN)


def test_where_no_template_asks_the_same_all_compete_the_most_alike_first() -> None:
    found = templates()
    unlike = found.unlike(fact_like(CAPITAL, 0.8), named=0.5, same=0.9)
    assert texts(found, unlike) == of(CAPITAL, SEA, BORN)
    assert texts(found, unlike[:2]) == of(CAPITAL)


def test_the_same_question_about_another_type_of_subject_does_not_compete() -> None:
    """Questions that are never asked together, and that the base takes for alike."""
    found = templates()
    key = F.normalize(torch.tensor([[1.0, 0.6, 0.6, 0.0]]), dim=1)
    assert texts(found, found.unlike(key, named=0.35, same=0.7)) == of(SEA)
    assert texts(found, found.unlike(key, named=0.5, same=0.7)) == of(SEA, BORN)
    assert texts(found, found.unlike(key, named=0.35, same=0.9)) == of(CAPITAL, SEA, BORN)


def test_without_templates_nothing_competes() -> None:
    assert templates(GROUPS[:1]).unlike(fact_like(CAPITAL), named=0.5, same=0.9) == []
