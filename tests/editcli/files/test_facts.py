"""Reading fact files: each line judged alone, then all of them together."""

from __future__ import annotations

import io
import json
import os
import threading
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editcli.errors import FactsRefused, UsageError
from editcli.files.facts import FactFile, read_facts


def read(data: str | bytes, on_conflict: Literal["refuse", "newest"] = "refuse") -> FactFile:
    raw = data.encode() if isinstance(data, str) else data
    with patch("sys.stdin", io.TextIOWrapper(io.BytesIO(raw))):
        return read_facts("-", on_conflict=on_conflict)


def line(prompt: str = "p", target: str = "t", **more: object) -> str:
    return json.dumps({"prompt": prompt, "target": target, **more}) + "\n"


def reasons(file: FactFile) -> dict[int, str]:
    return {bad.line: bad.reason for bad in file.refused}


def test_blank_lines_count_but_are_no_facts() -> None:
    file = read("\n" + line("a") + "  \r\n" + line("b"))
    assert list(file.facts.lines) == [2, 4]
    assert [fact.prompt for fact in file.facts] == ["a", "b"]


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    file = read(b"\xef\xbb\xbf" + line("a").replace("\n", "\r\n").encode())
    assert [fact.prompt for fact in file.facts] == ["a"]


def test_a_line_separator_inside_text_does_not_end_the_line() -> None:
    assert read('{"prompt": "a\u2028b", "target": "t"}').facts[0].prompt == "a\u2028b"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("nonsense", "not JSON: expecting value at column 1"),
        ('{"prompt": "a", "target": "b"', "not JSON: expecting ',' delimiter at column 30"),
        ("[1, 2]", "must be a JSON object, not [1, 2]"),
        ("null", "must be a JSON object, not null"),
        (
            '{"prompt": "a", "prompt": "b", "target": "c"}',
            "not JSON: the key 'prompt' occurs twice",
        ),
        ('{"prompt": "a", "target": "b", "x_n": NaN}', "not JSON: NaN is not JSON"),
        ("[" * 100_000, "not JSON: nested too deeply"),
        (
            '{"prompt": "a", "target": ' + "[" * 600 + "]" * 600 + "}",
            "target: must be text, not a list",
        ),
        (b'{"prompt": "caf\xe9", "target": "b"}', "not UTF-8: byte 0xe9 at position 16"),
    ],
)
def test_a_line_that_is_no_object_is_refused_with_its_number(bad: str | bytes, reason: str) -> None:
    raw = bad.encode() if isinstance(bad, str) else bad
    file = read(line("good").encode() + raw + b"\n" + line("more").encode())
    assert reasons(file) == {2: reason}
    assert [fact.prompt for fact in file.facts] == ["good", "more"]


def test_all_bad_lines_are_named_in_one_error() -> None:
    file = read("nonsense\n" + line() + line(target="", typo=1))
    with pytest.raises(FactsRefused) as caught:
        file.require()
    assert caught.value.message.splitlines() == [
        "2 lines are refused in <stdin>",
        "<stdin>:1: not JSON: expecting value at column 1",
        "<stdin>:3: target: must not be empty; unknown key 'typo'",
    ]
    assert caught.value.exit_code == 4
    assert [fact.target for fact in file.require(skip_bad=True)] == ["t"]


def test_the_same_fact_twice_is_a_noop_and_noted() -> None:
    file = read(line("a") + line("b") + line("a", note="again") + line("a"))
    assert [fact.prompt for fact in file.facts] == ["a", "b"]
    assert [(entry.line, entry.by) for entry in file.duplicates] == [(3, 1), (4, 1)]
    assert file.refused == ()


def test_a_contradiction_refuses_every_line_of_its_prompt_and_names_the_other() -> None:
    file = read(line("a", "x") + line("b") + line("a", "y") + line("a", "x"))
    assert [fact.prompt for fact in file.facts] == ["b"]
    why = reasons(file)
    assert sorted(why) == [1, 3, 4]
    assert why[1] == "contradicts line 3: the same prompt with the target 'x' here and 'y' there"
    assert why[3].startswith("contradicts line 1:")
    assert "--on-conflict newest" in file.hint()


@pytest.mark.slow
def test_a_contradicted_fact_that_is_repeated_is_judged_in_linear_time() -> None:
    many = 20_000  # each against each would be hours
    file = read(line("a", "x") * many + line("a", "y"))
    assert len(file.refused) == many + 1
    assert file.refused[0].reason.startswith(f"contradicts line {many + 1}:")
    assert read(line("a", "x") * many).duplicates[-1].by == 1


def test_the_newest_of_contradicting_facts_wins_when_asked() -> None:
    file = read(line("a", "x") + line("a", "y") + line("b") + line("a", "x"), "newest")
    assert list(file.facts.lines) == [3, 4]
    assert [fact.target for fact in file.facts] == ["t", "x"]
    assert [(entry.line, entry.by) for entry in file.superseded] == [(1, 2), (2, 4)]
    assert file.refused == ()


def test_one_id_cannot_name_two_facts() -> None:
    file = read(line("a", id="seven") + line("b", id="seven"))
    assert reasons(file) == {2: "id: 'seven' names another fact on line 1"}


UK = line("The king of the UK is", subject="UK", aliases=["Great Britain"])
CLASH = "facts about one thing need the same subject"


@pytest.mark.parametrize(
    ("other", "refused"),
    [
        (
            line("The sea of Albion is", subject="Albion", aliases=["the uk"]),
            {2: f"aliases: 'the uk' is the subject of line 1; {CLASH}"},
        ),
        (
            line("The sea of Albion is", subject="Albion", aliases=["great britain"]),
            {2: f"aliases: 'great britain' is an alias on line 1, too; {CLASH}"},
        ),
        (
            line("The sea of Great Britain is", subject="Great Britain"),
            {1: f"aliases: 'Great Britain' is the subject of line 2; {CLASH}"},
        ),
        (line("The sea of the uk is", subject="uk", aliases=["great britain"]), {}),
        (line("The sea of Great Britain is"), {}),
        (line("The king of the UK is", subject="king", aliases=["UK"]), {}),
    ],
)
def test_an_alias_of_another_subject_is_refused_with_the_other_line(
    other: str, refused: dict[int, str]
) -> None:
    assert reasons(read(UK + other)) == refused


def test_a_line_that_is_refused_for_its_alias_supersedes_nothing() -> None:
    older = line("The sea of Albion is", "x")
    newer = line("The sea of Albion is", "y", subject="Albion", aliases=["UK"])
    file = read(UK + older + newer, "newest")
    assert sorted(reasons(file)) == [3]
    assert [fact.target for fact in file.facts] == ["t", "x"]


def test_a_file_that_is_absent_or_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_facts(str(tmp_path / "absent.jsonl"))
    with pytest.raises(UsageError, match="is a directory"):
        read_facts(str(tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no facts"),
        (b" \n\n", "holds no facts"),
        (line().encode("utf-16"), "is UTF-16, not UTF-8"),
        (b"[]", "holds no facts"),
        (json.dumps(json.loads(line()), indent=2).encode(), "is one JSON object"),
    ],
)
def test_something_else_than_rows_is_a_usage_error(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read(data)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_file_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(line("a"), encoding="utf-8")
    file = read_facts(str(path))
    assert file.name == str(path)
    assert [fact.prompt for fact in file.facts] == ["a"]


def test_facts_are_read_from_the_file_when_they_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    long = "n" * 9000  # more than is read at a time
    last = line("é", "ü") + line("c", x_note=long)
    file.write_text("\ufeff" + line("a", x_note=long) + "\n" + last, encoding="utf-8")
    facts = read_facts(str(file)).facts
    assert [fact.prompt for fact in facts] == ["a", "é", "c"]
    assert (facts[-1].prompt, facts[1].target, len(facts)) == ("c", "ü", 3)
    assert [fact.prompt for fact in facts[1:]] == ["é", "c"]
    assert list(facts[:2].lines) == [1, 3]
    assert [fact.prompt for fact in facts.at([2, 0])] == ["c", "a"]
    with pytest.raises(IndexError):
        facts[3]
    file.write_text("\n" * 20_000)
    with pytest.raises(UsageError, match="was changed while it was read"):
        facts[0]


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(line("a") + line("b"),))
    writer.start()
    file = read_facts(str(pipe))
    writer.join()
    assert [fact.prompt for fact in file.facts] == ["a", "b"]


@pytest.mark.slow
def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "facts.jsonl"
    with path.open("w") as file:
        for number in range(8_000):
            file.write(line(f"The capital of country {number} is", "Lyon", x_note="n" * 500))
    tracemalloc.start()
    large = read_facts(str(path))
    longest = max(len(fact.prompt) for fact in large.facts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(large.facts), longest) == (8_000, len("The capital of country 7999 is"))
    assert peak < path.stat().st_size / 5


few = st.sampled_from(["a", "b", "c"])


@given(
    st.lists(st.tuples(few, few), min_size=1, max_size=12), st.sampled_from(["refuse", "newest"])
)
def test_every_line_is_accounted_for_once_and_no_prompt_is_used_twice(
    pairs: list[tuple[str, str]], on_conflict: Literal["refuse", "newest"]
) -> None:
    file = read("".join(line(prompt, target) for prompt, target in pairs), on_conflict)
    parts = [file.refused, file.duplicates, file.superseded]
    left_out = [entry.line for part in parts for entry in part]
    assert sorted([*file.facts.lines, *left_out]) == list(range(1, len(pairs) + 1))
    prompts = [fact.prompt for fact in file.facts]
    assert len(prompts) == len(set(prompts))
    if on_conflict == "newest":
        assert {fact.prompt: fact.target for fact in file.facts} == dict(pairs)


@given(st.binary(max_size=60))
def test_any_bytes_are_judged_without_a_crash(data: bytes) -> None:
    with suppress(UsageError):
        assert all(bad.reason for bad in read(data).refused)


def test_remarks_on_a_long_file_are_counted_beyond_so_many(tmp_path: Path) -> None:
    line = '{"prompt": "The sky is", "target": "green"}\n'
    path = tmp_path / "facts.jsonl"
    path.write_text(line * 6)
    file = read_facts(str(path))
    assert file.remarks(5) == file.remarks()
    assert len(file.remarks()) == 5
    shown = file.remarks(2)
    assert shown[:2] == file.remarks()[:2]
    assert shown[2].startswith(f"{path}: 3 more lines are left out or superseded")
