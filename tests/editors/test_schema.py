"""Validation in one place: every problem of a value at once, in our words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, Field, model_validator

from editors import METHODS, EditorError, Fact
from editors.schema import (
    Number,
    String,
    Text,
    Texts,
    Whole,
    kind_of,
    plain_json,
    problems,
    record,
    settings_from,
    unknown_key,
    without_nulls,
)


class RecordError(EditorError):
    """What the records below raise."""


def _named(part: Part) -> Part:
    if part.name == "nameless":
        raise ValueError(".name: is no name")
    if part.name == "refused":
        raise ValueError("cannot be used")
    return part


@record(RecordError, "mend the part")
class Part:
    name: Text
    size: Whole = 1


@record(RecordError, "mend the whole")
class Record:
    title: Text
    parts: tuple[Annotated[Part, AfterValidator(_named)], ...] = ()
    main: Part | None = None
    kind: Literal["round", "flat"] = "round"
    share: Annotated[Number, Field(ge=0, le=1)] = 0.5
    note: String = ""
    tags: Texts = ()
    values: Mapping[Text, bool | Whole | Number | Text] = Field(default_factory=dict)


# --- every problem, in our words ----------------------------------------------------------------


def test_every_problem_is_named_at_once_with_where_it_is() -> None:
    value = {
        "title": " ",
        "parts": [{"name": 3}, {"size": 1.5}, "part", {"name": "a", "seize": 1}],
        "main": {"name": "a", "size": "1"},
        "kind": "square",
        "share": 2,
        "note": [],
        "tags": ["a", ""],
        "zzz": 1,
    }
    assert sorted(problems(Record, value)) == sorted(
        [
            "title: must not be empty",
            "parts[0].name: must be text, not the number 3",
            "parts[1].name: is required",
            "parts[1].size: must be a whole number, not the number 1.5",
            "parts[2]: must be an object, not text",
            "parts[3]: unknown key 'seize' (did you mean 'size'?)",
            "main.size: must be a whole number, not text",
            "kind: must be 'round' or 'flat', not 'square'",
            "share: must be less than or equal to 1, not 2",
            "note: must be text, not a list",
            "tags[1]: must not be empty",
            "unknown key 'zzz'",
        ]
    )


def test_a_record_is_never_made_of_values_that_break_it() -> None:
    with pytest.raises(RecordError) as caught:
        Record(title="", kind="square", parts=(Part("a"),), share=-1)  # type: ignore[arg-type]
    assert caught.value.message == (
        "title: must not be empty; kind: must be 'round' or 'flat', not 'square'; "
        "share: must be greater than or equal to 0, not -1"
    )
    assert caught.value.hint == "mend the whole"
    with pytest.raises(
        RecordError, match=r"^name: must be text, not the number 3; size: must be a whole"
    ):
        Part(3, 0.5)  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=r"^name: is required$"):
        Part()  # type: ignore[call-arg]
    with pytest.raises(
        RecordError, match=r"^unknown key 'nme' \(did you mean 'name'\?\)$"
    ) as caught:
        Part("a", nme="b")  # type: ignore[call-arg]
    assert caught.value.hint == "mend the part"


def test_a_record_cannot_be_changed() -> None:
    part = Part("a")
    with pytest.raises(AttributeError):
        part.name = "b"  # type: ignore[misc]
    assert Part("a") == part
    assert {Part("a"), part} == {part}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "the number 0"),
        (1.5, "the number 1.5"),
        ("a", "text"),
        ([], "a list"),
        ({}, "an object"),
    ],
)
def test_values_are_called_what_json_calls_them(value: object, kind: str) -> None:
    assert kind_of(value) == kind
    if not isinstance(value, str | None):
        assert problems(Part, {"name": value}) == [f"name: must be text, not {kind}"]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("share", True, "share: must be a number, not true"),
        ("share", "0.5", "share: must be a number, not text"),
        ("share", float("nan"), "share: must be a finite number, not the number nan"),
        ("share", float("inf"), "share: must be a finite number, not the number inf"),
        ("main", {"name": "a", "size": True}, "main.size: must be a whole number, not true"),
        (
            "main",
            {"name": "a", "size": 2.0},
            "main.size: must be a whole number, not the number 2.0",
        ),
        ("tags", "a, b", "tags: must be a list, not text"),
        ("tags", {"a": 1}, "tags: must be a list, not an object"),
        ("values", [], "values: must be an object, not a list"),
    ],
)
def test_no_value_is_taken_for_another_kind(key: str, value: object, problem: str) -> None:
    assert problems(Record, {"title": "a", key: value}) == [problem]


def test_whole_numbers_stand_for_numbers() -> None:
    assert Record("a", share=1).share == 1.0
    assert problems(Record, {"title": "a", "share": 1}) == []


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u2003"])
def test_text_is_never_blank(text: str) -> None:
    assert problems(Part, {"name": text}) == ["name: must not be empty"]


def test_text_can_be_written() -> None:
    assert problems(Part, {"name": "naïve \U0001f600"}) == []
    assert problems(Part, {"name": "a \ud800"}) == [
        "name: must be valid Unicode (it holds half of a surrogate pair)"
    ]


def test_a_validator_may_say_where_inside_a_value_the_problem_is() -> None:
    value = {"title": "a", "parts": [{"name": "nameless"}, {"name": "refused"}]}
    assert problems(Record, value) == ["parts[0].name: is no name", "parts[1]: cannot be used"]


# --- unknown keys -------------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_the_nearest_one_if_any_is_near() -> None:
    assert unknown_key("nme", ("name", "size")) == "unknown key 'nme' (did you mean 'name'?)"
    assert unknown_key("zzz", ("name", "size")) == "unknown key 'zzz'"
    assert unknown_key("zzz", ()) == "unknown key 'zzz'"
    assert problems(Record, {"title": "a", "tgas": [], "zzz": 1}) == [
        "unknown key 'tgas' (did you mean 'tags'?)",
        "unknown key 'zzz'",
    ]


def test_the_nearest_key_is_one_of_the_object_that_holds_it() -> None:
    value = {"title": "a", "main": {"name": "a", "titel": 1}, "parts": [{"name": "b", "nmae": 1}]}
    assert sorted(problems(Record, value)) == [
        "main: unknown key 'titel'",
        "parts[0]: unknown key 'nmae' (did you mean 'name'?)",
    ]


# --- nulls --------------------------------------------------------------------------------------


def test_a_null_counts_as_absent() -> None:
    value = {"title": "a", "main": None, "kind": None, "share": None, "shape": None}
    assert problems(Record, value) == []
    assert Record(**without_nulls(value)) == Record("a")
    assert problems(Record, {"title": None}) == ["title: is required"]
    assert problems(Record, {"title": "a", "parts": [{"name": None, "size": None}]}) == [
        "parts[0].name: is required"
    ]


def test_a_null_in_a_list_is_an_element() -> None:
    assert problems(Record, {"title": "a", "tags": ["a", None]}) == [
        "tags[1]: must be text, not null"
    ]
    value = {"a": None, "b": [None, {"c": None, "d": 0}], "e": {"f": {"g": None}}}
    assert without_nulls(value) == {"b": [None, {"d": 0}], "e": {"f": {}}}


# --- any value ----------------------------------------------------------------------------------

keys = st.sampled_from(["title", "parts", "main", "kind", "share", "note", "tags", "name", "size"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
values = st.recursive(
    scalars | st.sampled_from(["flat", "a", 0.5, 1]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(keys | st.text(), values, max_size=4)
    | st.fixed_dictionaries({"title": st.just("a")}, optional={"main": values})
)
def test_any_object_is_a_record_or_has_problems_that_all_name_something(value: Any) -> None:
    wrong = problems(Record, value)
    assert len(set(wrong)) == len(wrong)
    for problem in wrong:
        assert problem
        assert "Input should" not in problem
        assert "pydantic" not in problem
        assert "\n" not in problem
    if not wrong:
        assert isinstance(Record(**without_nulls(value)), Record)


@pytest.mark.parametrize("cls", [Record, Fact])
def test_a_value_that_is_nested_deeply_is_judged(cls: type[Any]) -> None:
    nested: Any = []
    for _ in range(600):  # a JSON parser takes nearly a thousand
        nested = [nested]
    assert "tags[0]: must be text, not a list" in problems(cls, {"tags": nested})


# --- plain JSON ---------------------------------------------------------------------------------


def test_plain_json_is_text_that_reads_back() -> None:
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    assert json.loads(plain_json(value)) == value
    assert "ü" in plain_json(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), {(1,): 1}])
def test_what_json_does_not_have_is_no_plain_json(value: object) -> None:
    with pytest.raises(ValueError, match="must be plain JSON"):
        plain_json(value)


def test_plain_json_can_be_written() -> None:
    with pytest.raises(ValueError, match="must be valid Unicode"):
        plain_json({"a": "\ud800"})


# --- settings -----------------------------------------------------------------------------------


@record(EditorError)
class Settings:
    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "plain": {},
        "fast": {"steps": 5, "rate": 2.0},
    }

    profile: Literal["plain", "fast"] = "plain"
    steps: Annotated[Whole, Field(ge=1)] = 100
    rate: Number = 1.0
    careful: bool = True

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.careful and self.steps == 13:
            raise ValueError("careful=true takes another number of steps than 13")
        return self


@record(EditorError)
class Few:
    steps: Whole = 3


def test_settings_are_those_given_over_the_profile_over_the_defaults() -> None:
    assert settings_from(Settings, "m", {}) == Settings("plain", 100, 1.0)
    assert settings_from(Settings, "m", {"profile": "fast"}) == Settings("fast", 5, 2.0)
    assert settings_from(Settings, "m", {"profile": "fast", "steps": 7}) == Settings("fast", 7, 2.0)
    assert settings_from(Settings, "m", {"steps": 7, "profile": "plain"}) == Settings("plain", 7)
    assert settings_from(Few, "m", {"steps": 1}) == Few(1)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"stepps": 3}, "unknown key 'stepps' (did you mean 'steps'?)"),
        ({"steps": 0}, "steps: must be greater than or equal to 1, not 0"),
        ({"steps": "many"}, "steps: must be a whole number, not text"),
        ({"steps": 2.5}, "steps: must be a whole number, not the number 2.5"),
        ({"profile": "slow"}, "profile: must be 'plain' or 'fast', not 'slow'"),
        ({"profile": 1}, "profile: must be 'plain' or 'fast', not 1"),
        ({"steps": 13}, "careful=true takes another number of steps than 13"),
        ({"profile": "fast", "rate": "x"}, "rate: must be a number, not text"),
    ],
)
def test_bad_settings_are_refused_with_whose_they_are_and_all_there_are(
    given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(EditorError) as caught:
        settings_from(Settings, "the method", given)
    assert caught.value.message == f"the method cannot take these settings: {problem}"
    assert caught.value.hint == "settings: profile, steps, rate, careful"


def test_all_bad_settings_are_named_at_once() -> None:
    with pytest.raises(EditorError) as caught:
        settings_from(Settings, "m", {"stepps": 3, "rate": "x", "steps": 0})
    for problem in ("unknown key 'stepps'", "rate: must be a number", "steps: must be greater"):
        assert problem in caught.value.message


def test_a_profile_is_an_unknown_setting_where_there_are_none() -> None:
    with pytest.raises(EditorError, match="unknown key 'profile'"):
        settings_from(Few, "m", {"profile": "fast"})


@dataclass(frozen=True)
class Plain:
    """As a package may write it that knows nothing of `record`."""

    steps: int = 3


def test_settings_of_a_plain_dataclass_are_held_to_its_names_and_types() -> None:
    assert settings_from(Plain, "m", {"steps": 5}) == Plain(5)
    with pytest.raises(EditorError, match="m cannot take these settings: steps: must be"):
        settings_from(Plain, "m", {"steps": "many"})
    with pytest.raises(EditorError, match=r"unknown key 'stesp' \(did you mean 'steps'\?\)"):
        settings_from(Plain, "m", {"stesp": 5})


@pytest.mark.parametrize("name", METHODS.names())
def test_every_profile_of_every_method_can_be_taken(name: str) -> None:
    spec = METHODS.load(name)
    for profile, values in getattr(spec.settings, "PROFILES", {}).items():
        assert spec.all_settings({"profile": profile}).items() >= values.items()
