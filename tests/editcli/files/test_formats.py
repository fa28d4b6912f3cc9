"""The formats of fact files: how each is recognised, and what its rows become."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from set_samples import SAMPLES, Json

from editcli.errors import UsageError
from editcli.files.containers.opening import open_container
from editcli.files.conversion import Choices, FactRows
from editcli.files.formats.recognition import recognised
from editcli.files.formats.registry import FORMATS
from editcli.files.jsonl import Refused
from editors import EditorError, Fact, InvalidFact

each_format = pytest.mark.parametrize("name", SAMPLES)
ROOT = Path(__file__).resolve().parents[3]


def written(folder: Path, *rows: Json) -> str:
    path = folder / "rows.json"
    path.write_text(json.dumps([*rows], ensure_ascii=False), encoding="utf-8")
    return str(path)


def read(path: str, choices: Choices | None = None) -> list[list[Fact] | Refused]:
    rows = FactRows(open_container(path), choices)
    return [item if isinstance(item, Refused) else item[1] for item in rows.facts()]


def facts_of(path: str, choices: Choices | None = None) -> list[Fact]:
    [facts] = read(path, choices)
    assert not isinstance(facts, Refused), facts
    return facts


def test_every_format_has_a_sample_here() -> None:
    assert sorted(SAMPLES) == list(FORMATS.names())
    assert all(FORMATS.load(name).name == name for name in FORMATS.names())


@each_format
def test_a_row_is_recognised_by_its_keys_among_all_formats(name: str) -> None:
    row, _ = SAMPLES[name]
    assert recognised("file", [row]).name == name
    assert recognised("file", [{"unheard": "of"}, row, {"prompt": "p", "target": "t"}]).name == name


@each_format
def test_a_row_becomes_its_facts(name: str, tmp_path: Path) -> None:
    row, expected = SAMPLES[name]
    assert [fact.to_dict() for fact in facts_of(written(tmp_path, row))] == expected


@each_format
def test_no_paraphrase_is_ever_trained_on(name: str, tmp_path: Path) -> None:
    for fact in facts_of(written(tmp_path, SAMPLES[name][0])):
        assert fact.trained_prompts() == (fact.prompt,)


@each_format
def test_a_row_has_the_same_ids_wherever_it_stands(name: str, tmp_path: Path) -> None:
    row, _ = SAMPLES[name]
    first, *_, last = read(written(tmp_path, row, *(row for row, _ in SAMPLES.values()), row))
    alone = [fact.id for fact in facts_of(written(tmp_path, row))]
    if not isinstance(first, Refused) and not isinstance(last, Refused):
        assert [fact.id for fact in first] == [fact.id for fact in last] == alone


def paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values in parsed JSON are."""
    if path:
        yield path
    inner = value.items() if isinstance(value, Mapping) else ()
    for key, below in enumerate(value) if isinstance(value, list) else inner:
        yield from paths(below, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: object) -> Any:
    if not path:
        return by
    copy = dict(value) if isinstance(value, Mapping) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], by)
    return copy


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["prompt", "str", "a"]), inner, max_size=2)
    ),
    max_leaves=5,
)


@each_format
@given(data=st.data())
def test_a_row_with_any_value_anywhere_is_facts_or_says_why_not(
    name: str, data: st.DataObject
) -> None:
    row, _ = SAMPLES[name]
    broken = replaced(row, data.draw(st.sampled_from([*paths(row)])), data.draw(any_json))
    with suppress(InvalidFact):
        for fields in FORMATS.load(name).facts(broken):
            fact = Fact.from_dict(fields)
            assert fact.prompt.strip()
            assert fact.target.strip()


@each_format
def test_gold_edits_to_the_true_answer_where_the_set_has_one(name: str, tmp_path: Path) -> None:
    row, expected = SAMPLES[name]
    [item] = read(written(tmp_path, row), Choices(target="gold"))
    if "ground_truth" not in expected[0]:
        assert item == Refused(1, "ground_truth: the row has no true answer besides its target")
        return
    assert not isinstance(item, Refused)
    for fact, fields in zip(item, expected, strict=True):
        assert fact.target == fields["ground_truth"]
        assert fact.ground_truth is None
        assert fact.portability == ()  # what follows from the answer of the set
        assert fact.rephrases == tuple(fields.get("rephrases", ()))


def test_a_row_of_several_facts_is_left_out_whole(tmp_path: Path) -> None:
    row = json.loads(json.dumps(SAMPLES["mquake"][0]))
    row["requested_rewrite"][1]["target_new"]["str"] = " "
    good, bad = read(written(tmp_path, SAMPLES["mquake"][0], row))
    assert not isinstance(good, Refused)
    assert len(good) == 2
    assert bad == Refused(2, "target_new.str: is required, as text")


def test_an_old_answer_that_is_the_target_is_none(tmp_path: Path) -> None:
    row = {**SAMPLES["zsre"][0], "answers": ["Aarhus University"]}
    [fact] = facts_of(written(tmp_path, row))
    assert (fact.target, fact.ground_truth) == ("Aarhus University", None)


def test_a_subject_that_the_prompt_does_not_name_is_named_with_its_row(tmp_path: Path) -> None:
    row = {**SAMPLES["zsre"][0], "subject": "Nils Aas"}
    [item] = read(written(tmp_path, row))
    assert isinstance(item, Refused)
    assert item.reason.startswith("subject: 'Nils Aas' does not occur in the prompt")


# --- choosing and recognising -----------------------------------------------------------------


def test_a_format_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, SAMPLES["counterfact-flat"][0])
    [fact] = facts_of(path, Choices("easyedit"))
    assert [probe.kind for probe in fact.locality] == ["far"]
    with pytest.raises(EditorError, match="no format of fact files is called 'easyedit2'"):
        read(path, Choices("easyedit2"))


def test_keys_can_have_other_names(tmp_path: Path) -> None:
    path = written(tmp_path, {"q": "The head of Kestrel Works is", "a": "Ana Ruiz", "prompt": "?"})
    [fact] = facts_of(path, Choices(columns={"prompt": "q", "target": "a"}))
    assert (fact.prompt, fact.target) == ("The head of Kestrel Works is", "Ana Ruiz")
    with pytest.raises(UsageError, match="has no 'x', but 'q', 'a', 'prompt'"):
        read(path, Choices(columns={"target": "x"}))


@pytest.mark.parametrize(
    ("row", "message", "hint"),
    [
        (
            {"question": "q", "answer": "a"},
            "its columns are 'question', 'answer'; the nearest format is editeverything, which "
            "needs 'category' as well",
            "`--column prompt=NAME --column target=NAME`",
        ),
        (
            {"prompt": "p", "completion": "c"},
            "the nearest format is editcli, which needs 'target' as well",
            "`--column target=NAME`",
        ),
        (
            {"Prompt": "p", "Target": "c"},
            "the nearest format is editcli, which needs 'prompt', 'target' as well",
            "`--column prompt=Prompt --column target=Target`",
        ),
        ({str(n): n for n in range(99)}, "'11' and 87 more; ", "facts formats"),
        (
            {k: v for k, v in SAMPLES["zsre"][0].items() if k != "alt"},
            "the nearest format is zsre, which needs 'alt' as well",
            "`--column alt=NAME`",
        ),
    ],
)
def test_an_unknown_row_is_told_by_its_keys_and_the_nearest_format(
    row: Json, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        recognised("file", [row], table=True)
    assert caught.value.message.startswith("file has no known format: ")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_rows_that_misspell_our_keys_are_ours_and_each_is_named() -> None:
    assert recognised("file", [{"prompt": "p", "targt": "t"}]).name == "editcli"
    assert recognised("file", []).name == recognised("file", [{}, {}]).name == "editcli"


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "q", "context": "c", "context_answer": "a"}, "a conflict file of editcli"),
        (
            {"question": "q", "memory_answer": "a", "counter_answer": "b", "counter_memory": "c"},
            "ConflictQA",
        ),
        ({"prompt": "p", "classes": "[' a', ' b']", "answer_index": "0"}, "Memo-Trap"),
    ],
)
def test_rows_that_are_no_facts_are_told_with_what_they_are_for(row: Json, what: str) -> None:
    with pytest.raises(UsageError, match=f"file holds no facts, but {what}") as caught:
        recognised("file", [row])
    assert "`editcli " in caught.value.hint


def test_a_format_of_another_package_is_found(tmp_path: Path, toy_package: Path) -> None:
    assert "toy-quiz" in FORMATS.names()
    row = {"quiz": "Which sea is deepest?", "solution": "the Philippine Sea", "round": 3}
    [fact] = facts_of(written(tmp_path, row))
    assert fact.to_dict() == {
        "prompt": "Which sea is deepest?",
        "target": "the Philippine Sea",
    }


# --- the words of RippleEdits -----------------------------------------------------------------


def ripple(statement: str, *queries: str, old: str | None = None) -> Fact:
    edit = {"prompt": statement, "subject_id": "Q9", "target_id": "Q2"}
    tests = [{"test_queries": [{"prompt": query, "subject_id": "Q9"} for query in queries]}]
    row = {
        "edit": {**edit, "original_fact": {"prompt": old}} if old else edit,
        "Relation_Specificity": tests,
    }
    [fields] = FORMATS.load("rippleedits").facts(row)
    return Fact.from_dict(fields)


SUBJECTS = st.sampled_from(["Norland", "Bo", "The Blue Lantern", "Kestrel Bay", "Ana de la Cruz"])
ANSWERS = st.sampled_from(["Porto", "New Vale", "The Heron", "Ana Ruiz", "7 May 1931"])
STATEMENTS = [
    "The name of the head of state of {} is",
    "The name of the country which {} is associated with is",
    "The names of the siblings of {} are",
    "The number of children {} has is",
    "{} follows",
    "{} is followed by",
    "The name of the sports team which {} is a member of is",
    "The name of the league which {} plays in is",
    "The name of the continent which {} is part of is",
    "The name of the award {} won is",
    "The gender of {} is",
]


@given(
    st.lists(st.sampled_from(STATEMENTS), min_size=2, max_size=6, unique=True),
    SUBJECTS,
    ANSWERS,
    ANSWERS | st.none(),
)
def test_the_prompt_the_answers_and_the_subject_of_a_statement_are_found(
    templates: list[str], subject: str, answer: str, old: str | None
) -> None:
    prompt, *queries = (template.format(subject) for template in templates)
    fact = ripple(f"{prompt} {answer}.", *queries, old=None if old is None else f"{prompt} {old}.")
    assert (fact.prompt, fact.target, fact.ground_truth) == (prompt, answer, old)
    assert fact.subject == subject


def test_a_statement_without_a_question_about_its_subject_gives_no_subject() -> None:
    assert ripple("The mother of Bo is Ana.").subject is None


def test_a_statement_without_a_verb_is_no_fact() -> None:
    with pytest.raises(InvalidFact, match="has no verb before its answer"):
        ripple("Norland: Porto.")


# --- the page -----------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="docs are not there")
def test_the_page_has_a_row_with_the_keys_of_every_format() -> None:
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if "|" in line}
    for name in FORMATS.names():
        assert [key for key in FORMATS.load(name).keys if f"`{key}`" not in rows[name]] == []
