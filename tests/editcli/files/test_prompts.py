"""Lines of a stream of prompts: texts, and chats as JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editcli.files.prompts import read_prompt
from editors import EditorError

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
turns = st.fixed_dictionaries({"role": texts, "content": texts})
chats = st.lists(turns, max_size=4).map(lambda t: [*t, {"role": "user", "content": "Why?"}])


@given(texts.filter(lambda text: "\n" not in text and not text.lstrip("\ufeff ").startswith("[")))
def test_a_line_of_text_is_a_prompt(text: str) -> None:
    assert read_prompt(f"{text}\r\n".encode("utf-8-sig")) == text.rstrip()


@given(chats, st.booleans())
def test_a_json_list_of_turns_is_a_chat(chat: list[dict[str, str]], ascii_only: bool) -> None:
    line = json.dumps(chat, ensure_ascii=ascii_only)
    assert read_prompt(f" {line}\n".encode()) == chat


@pytest.mark.parametrize("line", ["", "\n", " \t\r\n"])
def test_a_blank_line_is_no_prompt(line: str) -> None:
    assert read_prompt(line.encode()) is None


@pytest.mark.parametrize("line", ["[1] is the", "[]", "[1, 2]", '["a"]', "[" * 10_000, '{"a": 1}'])
def test_other_json_is_text(line: str) -> None:
    assert read_prompt(line.encode()) == line


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([{"role": "user"}], "turn 1: content: is required"),
        ([{"role": "user", "content": 1}], "turn 1: content: must be text, not the number 1"),
        ([{"role": "user", "content": " "}], "turn 1: content: must not be empty"),
        ([{"role": "user", "content": "a", "text": "b"}], "turn 1: unknown key 'text'"),
        (["a", {"role": "user", "content": "a"}], "turn 1 is text, not an object"),
        ([{"role": "assistant", "content": "a"}], "the last turn has the role 'assistant'"),
        ([{"role": "user", "content": "\ud800"}], "must be valid Unicode"),
    ],
)
def test_a_bad_turn_is_named(value: object, problem: str) -> None:
    with pytest.raises(EditorError, match=problem) as caught:
        read_prompt(json.dumps(value).encode())
    assert caught.value.hint


def test_a_line_that_is_not_utf_8_is_named() -> None:
    with pytest.raises(EditorError, match="not UTF-8"):
        read_prompt(b"\xff\n")
