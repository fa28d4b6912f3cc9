"""Reading conflict files: every bad line at once, and splits that stay what they are."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editcli.errors import FactsRefused, UsageError
from editcli.files.conflicts import ConflictFile, read_conflicts
from editors.conflicts.cases import Conflict

NAMES = ("locate", "dev", "test")


def line(**more: Any) -> str:
    row = {"question": "the sea of Kenya is", "context": "it is red .", "context_answer": "red"}
    return json.dumps({**row, **more}, ensure_ascii=False) + "\n"


def read(data: str | bytes, folder: Path, **options: Any) -> ConflictFile:
    path = folder / "conflicts.jsonl"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return read_conflicts(str(path), **options)


def test_rows_are_read_in_order_with_the_digest_of_the_bytes(tmp_path: Path) -> None:
    data = line(x_source="mine") + "\n" + line(context_answer="blue")
    file = read(data, tmp_path)
    assert [row.context_answer for row in file.rows] == ["red", "blue"]
    assert file.name == str(tmp_path / "conflicts.jsonl")
    assert file.digest == sha256(data.encode()).hexdigest()
    assert read(data.replace("\n\n", "\n"), tmp_path).digest != file.digest


BAD = [
    ("{", "not JSON: "),
    ("[1]", "must be a JSON object, not [1]"),
    (line(context=""), "context: must not be empty"),
    (line(context=None), "context: is required"),
    (
        line(memory_answer="Red."),
        "context_answer: 'red' is the memory answer, so nothing conflicts",
    ),
    (line(sbject="x"), "unknown key 'sbject' (did you mean 'subject'?)"),
    (line(subject="Peru"), "subject: 'Peru' does not occur in the question"),
    (
        line(split="train", kind="counter"),
        "kind: must be 'substitution', 'coherent', 'irrelevant' or 'gold', not 'counter'; "
        "split: must be 'locate', 'dev' or 'test', not 'train'",
    ),
]


def test_every_bad_line_is_named_with_its_number(tmp_path: Path) -> None:
    lines = [part for bad, _ in BAD for part in (line(), bad.rstrip("\n") + "\n")]
    with pytest.raises(FactsRefused) as caught:
        read("\n" + "".join(lines), tmp_path)
    assert caught.value.exit_code == 4
    head, *named = caught.value.message.split("\n")
    assert head == f"{len(BAD)} lines are refused in {tmp_path / 'conflicts.jsonl'}"
    for number, (problem, (_, reason)) in enumerate(zip(named, BAD, strict=True)):
        assert problem.startswith(f"{tmp_path / 'conflicts.jsonl'}:{2 * number + 3}: {reason}")
    assert "`--skip-bad`" in caught.value.hint


@pytest.mark.parametrize(
    ("bad", "problems"),
    [
        (line(kind="other", sbject="x"), ["kind: must be ", "unknown key 'sbject'"]),
        (line(context=None, context_answer=""), ["context: is req", "context_answer: is req"]),
        (line(subject="Z", context_answer=None), ["subject: 'Z'", "context_answer: is req"]),
    ],
)
def test_every_problem_of_a_line_is_named_at_once(
    tmp_path: Path, bad: str, problems: list[str]
) -> None:
    with pytest.raises(FactsRefused) as caught:
        read(bad, tmp_path)
    assert [part for part in problems if part not in caught.value.message] == []


def test_one_bad_line_is_one(tmp_path: Path) -> None:
    with pytest.raises(FactsRefused, match=r"^1 line is refused in .*\n.*:2: not JSON"):
        read(line() + "{\n", tmp_path)


def test_bad_lines_are_left_out_when_asked(tmp_path: Path) -> None:
    data = "".join(line() + bad.rstrip("\n") + "\n" for bad, _ in BAD)
    assert len(read(data, tmp_path, skip_bad=True).rows) == len(BAD)
    with pytest.raises(UsageError, match="holds no rows"):
        read("".join(bad.rstrip("\n") + "\n" for bad, _ in BAD), tmp_path, skip_bad=True)


@pytest.mark.parametrize("data", ["", "\n \n"])
def test_a_file_without_rows_is_a_usage_error(tmp_path: Path, data: str) -> None:
    with pytest.raises(UsageError, match="holds no rows") as caught:
        read(data, tmp_path)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_conflicts(str(tmp_path / "absent.jsonl"))


# --- splits -----------------------------------------------------------------------------------


def rows(count: int, **more: Any) -> tuple[Conflict, ...]:
    return tuple(
        Conflict(f"the {relation} of S{n} is", "it is red .", "red", subject=f"S{n}", **more)
        for n in range(count)
        for relation in ("sea", "river")
    )


def test_a_split_that_is_named_holds(tmp_path: Path) -> None:
    data = "".join(line(split=name, context_answer=name) for name in NAMES)
    file = read(data, tmp_path)
    assert [[row.context_answer for row in file.split(name)] for name in NAMES] == [
        ["locate"],
        ["dev"],
        ["test"],
    ]


def test_unnamed_splits_part_the_rows_by_subject() -> None:
    file = ConflictFile("f", rows(400), "")
    parts = [file.split(name) for name in NAMES]
    assert sorted(row.question for part in parts for row in part) == sorted(
        row.question for row in file.rows
    )
    subjects = [{row.subject for row in part} for part in parts]
    assert not subjects[0] & subjects[1]
    assert not subjects[0] & subjects[2]
    assert not subjects[1] & subjects[2]
    shares = [len(part) / len(file.rows) for part in parts]
    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.07)


@given(st.permutations(range(12)), st.integers(1, 12))
def test_the_split_of_a_row_does_not_depend_on_the_others(order: list[int], count: int) -> None:
    every = rows(6)
    whole = ConflictFile("f", every, "")
    some = ConflictFile("g", tuple(every[n] for n in order[:count]), "other")
    for name in NAMES:
        assert set(some.split(name)) == set(whole.split(name)) & set(some.rows)


def test_without_a_subject_the_question_decides() -> None:
    one = Conflict("the sea of Kenya is", "it is red .", "red")
    other = Conflict("the sea of Kenya is", "it is blue .", "blue")
    file = ConflictFile("f", (one, other), "")
    assert sorted(len(file.split(name)) for name in NAMES) == [0, 0, 2]


def test_each_split_needs_a_row_that_conflicts() -> None:
    every = tuple(row for name in NAMES for row in rows(1, split=name))
    ConflictFile("f", every, "").require_splits()
    for name in NAMES:
        rest = tuple(row for row in every if row.split != name)
        calm = rows(1, split=name, kind="irrelevant")
        for without in (rest, (*rest, *calm)):
            with pytest.raises(UsageError, match=f"no conflicting row of f is in .* '{name}'"):
                ConflictFile("f", without, "").require_splits()
