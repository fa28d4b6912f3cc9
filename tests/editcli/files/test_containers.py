"""What rows are kept in: the same rows give the same facts, and what is wrong is named by place."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from set_samples import SAMPLES, Json

from editcli.errors import UsageError
from editcli.files.facts import FactFile, read_facts
from editors import EditorError, Fact

NASTY = [
    {"prompt": 'Who said "no, never"?', "target": "she; he", "subject": "no, never"},
    {"prompt": "Two\nlines of Ølst are", "target": "é\tè", "aliases": ["Oelst"], "subject": "Ølst"},
    {
        "prompt": "The head of Kestrel Works is",
        "target": "7",
        "rephrases": ["Who, then, heads it?", "[Its] head is"],
        "locality": [{"prompt": "Its seat is", "kind": "subject"}],
        "x_row": "12",
    },
]


def as_lines(path: Path, rows: list[Json]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_list(path: Path, rows: list[Json]) -> Path:
    path = path.with_suffix(".data")  # the name says nothing
    path.write_text("\ufeff \n" + json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def cells(rows: list[Json]) -> list[list[str]]:
    """A header, and the values of each row: lists as JSON, nothing for a key that is not there."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    shown = [
        [
            json.dumps(value) if isinstance(value, list) else value
            for value in (row.get(key, "") for key in keys)
        ]
        for row in rows
    ]
    return [["", *keys], *([str(number), *row] for number, row in enumerate(shown))]


def as_csv(path: Path, rows: list[Json], delimiter: str = ",", suffix: str = ".csv") -> Path:
    path = path.with_suffix(suffix)
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(cells(rows))
    return path


def as_tsv(path: Path, rows: list[Json]) -> Path:
    return as_csv(path, rows, "\t", ".TSV")


def as_semicolons(path: Path, rows: list[Json]) -> Path:
    return as_csv(path, rows, ";")


def as_workbook(path: Path, rows: list[Json]) -> Path:
    path = path.with_suffix(".xlsx")
    workbook = openpyxl.Workbook()
    for row in cells(rows):
        workbook.active.append(row)
    workbook.save(path)
    return path


Save = Callable[[Path, list[Json]], Path]
CONTAINERS: list[Save] = [as_lines, as_list, as_csv, as_tsv, as_semicolons, as_workbook]
each_container = pytest.mark.parametrize("save", CONTAINERS)
each_table = pytest.mark.parametrize("save", [as_csv, as_tsv, as_semicolons, as_workbook])


def reasons(file: FactFile) -> list[str]:
    return file.findings()


@each_container
def test_the_same_rows_are_the_same_facts(save: Save, tmp_path: Path) -> None:
    file = read_facts(str(save(tmp_path / "facts", NASTY)))
    assert reasons(file) == []
    assert [fact.to_dict() for fact in file.facts] == NASTY
    assert [fact.prompt for fact in file.facts[1:]] == [row["prompt"] for row in NASTY[1:]]
    assert file.facts.at([2, 0])[1] == Fact.from_dict(NASTY[0])


@each_container
def test_a_public_set_is_read_like_its_converted_facts(save: Save, tmp_path: Path) -> None:
    row, expected = SAMPLES["counterfact-flat"]
    rows = [{**row, "case_id": str(row["case_id"])}]
    file = read_facts(str(save(tmp_path / "set", rows)))
    assert [fact.to_dict() for fact in file.facts] == expected
    [read_as] = file.remarks()
    assert read_as.endswith("is read as counterfact-flat: CounterFact, as EasyEdit has it")


cell = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(cell, cell), min_size=1, max_size=5, unique_by=lambda pair: pair[0]))
def test_any_text_survives_a_cell(pairs: list[tuple[str, str]]) -> None:
    table = io.StringIO()
    csv.writer(table).writerows([("prompt", "target"), *pairs])
    data = io.BytesIO(table.getvalue().encode())
    with patch("editcli.files.containers.opening.opened", lambda _: data):
        facts = read_facts("facts.csv").facts
        assert [(fact.prompt, fact.target) for fact in facts] == pairs


# --- where something is wrong -----------------------------------------------------------------


def test_a_bad_row_is_named_by_the_line_or_the_number_of_its_record(tmp_path: Path) -> None:
    rows = [NASTY[1], {"prompt": "p", "target": "t", "subject": "x"}]
    for save, place in (
        (as_lines, ":2: "),
        (as_list, ", record 2: "),
        (as_csv, ":4: "),  # after the header and a row of two lines
        (as_workbook, ", row 3: "),
    ):
        path = save(tmp_path / "facts", rows)
        [finding] = reasons(read_facts(str(path)))
        assert finding.startswith(f"{path}{place}subject: 'x' does not occur in the prompt")


def test_a_contradiction_names_the_record_of_the_other(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "target": target} for target in ("a", "b")]
    path = as_list(tmp_path / "facts", rows)
    file = read_facts(str(path))
    assert file.findings()[0].startswith(f"{path}, record 1: contradicts record 2: ")
    newest = read_facts(str(path), on_conflict="newest")
    assert newest.remarks() == [f"{path}, record 1: superseded by record 2"]


def test_what_is_no_object_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(f"[7, {json.dumps(NASTY[0])}, null]")
    file = read_facts(str(path))
    assert [fact.to_dict() for fact in file.facts] == NASTY[:1]
    assert file.findings() == [
        f"{path}, record 1: must be a JSON object, not 7",
        f"{path}, record 3: must be a JSON object, not null",
    ]


@pytest.mark.parametrize(
    "end", ["", ", ]", ", {bad}]", ', {"prompt": NaN}]', "] more", ', {"prompt": "\xff"}]']
)
def test_a_broken_list_is_refused_as_a_whole(end: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(f"[{json.dumps(NASTY[0])}{end}".encode("latin-1"))
    with pytest.raises(UsageError, match=r"is no JSON list: .* after 1 record"):
        read_facts(str(path))


@each_table
def test_a_table_without_a_needed_column_names_it(save: Save, tmp_path: Path) -> None:
    path = save(tmp_path / "facts", [{"prompt": "p", "Target": "t"}])
    with pytest.raises(UsageError) as caught:
        read_facts(str(path))
    assert "its columns are 'prompt', 'Target'" in caught.value.message
    assert "the nearest format is editcli, which needs 'target' as well" in caught.value.message
    assert "`--column target=Target`" in caught.value.hint


@each_table
def test_a_column_that_may_be_misspelt_is_not_passed_over(save: Save, tmp_path: Path) -> None:
    path = save(tmp_path / "facts", [{"prompt": "p", "target": "t", "rephrase": "r", "n": "1"}])
    with pytest.raises(UsageError) as caught:
        read_facts(str(path))
    assert caught.value.message == (
        f"{path}: unknown key 'rephrase' (did you mean 'rephrases'?); unknown key 'n'"
    )


@each_table
def test_a_row_without_a_cell_that_it_needs_is_named(save: Save, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "target": "t"}, {"prompt": "q", "target": " "}, {"prompt": " "}]
    file = read_facts(str(save(tmp_path / "facts", rows)))
    assert [fact.prompt for fact in file.facts] == ["p"]
    assert [finding.partition(": ")[2] for finding in file.findings()] == [
        "target: is required",
        "prompt: is required; target: is required",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'prompt,target\n"a,b\n', "not CSV after line 1: unexpected end of data"),
        (b"prompt,target\na,b\nc,caf\xe9\n", "not UTF-8 after line"),
        (b"prompt,target,target\na,b,c\n", "the column 'target' is there twice"),
        ("prompt,target\na,b\n".encode("utf-16"), "is UTF-16, not UTF-8"),
        (b"", "holds no facts"),
        (b"prompt,target\n\n , \n", "holds no facts"),
    ],
)
def test_what_is_no_table_is_a_usage_error(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=message) as caught:
        read_facts(str(path))
    assert caught.value.hint


def test_white_space_around_a_cell_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("prompt , target\nThe sea is , deep\n")
    [fact] = read_facts(str(path)).facts
    assert (fact.prompt, fact.target) == ("The sea is", "deep")


def test_a_row_with_more_cells_than_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "facts.csv"
    path.write_text("prompt,target\na,b,,\nc,d,e\n")
    file = read_facts(str(path))
    assert [fact.prompt for fact in file.facts] == ["a"]
    assert file.findings() == [f"{path}:3: 3 cells, and 2 columns"]


def test_numbers_and_days_of_a_workbook_are_read_as_they_are_shown(tmp_path: Path) -> None:
    from datetime import datetime

    workbook = openpyxl.Workbook()
    for row in [
        ("prompt", "target"),
        ("The price is", 7.0),
        ("The rate is", 7.5),
        ("The day is", datetime(2026, 5, 1)),
    ]:
        workbook.active.append(row)
    workbook.save(tmp_path / "facts.xlsx")
    file = read_facts(str(tmp_path / "facts.xlsx"))
    assert [fact.target for fact in file.facts] == ["7", "7.5", "2026-05-01"]


def test_a_damaged_workbook_is_a_usage_error(tmp_path: Path) -> None:
    whole = as_workbook(tmp_path / "facts", NASTY).read_bytes()
    for data in (b"", b"prompt,target\n", whole[: len(whole) // 2]):
        path = tmp_path / "broken.xlsx"
        path.write_bytes(data)
        with pytest.raises(UsageError, match="is no workbook that can be read"):
            read_facts(str(path))


def test_without_its_library_a_workbook_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = as_workbook(tmp_path / "facts", NASTY)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(EditorError, match="nothing is installed to read it") as caught:
        read_facts(str(path))
    assert "pip install 'editcli[excel]'" in caught.value.hint


# --- rows of several facts --------------------------------------------------------------------


def mquake(*edits: tuple[str, str]) -> Json:
    return {
        "requested_rewrite": [
            {"prompt": "{} was founded by", "subject": subject, "target_new": {"str": target}}
            for subject, target in edits
        ],
        "questions": ["Where?"],
        "new_answer": "there",
    }


def test_of_a_row_only_the_facts_are_left_out_that_say_nothing_new(tmp_path: Path) -> None:
    rows = [mquake(("Heron", "Ana"), ("Kestrel", "Bo")), mquake(("Kestrel", "Bo"), ("Vale", "Di"))]
    path = as_list(tmp_path / "set", rows)
    file = read_facts(str(path))
    assert [fact.subject for fact in file.facts] == ["Heron", "Kestrel", "Vale"]
    assert list(file.facts.lines) == [1, 1, 2]
    assert [(same.line, same.by) for same in file.duplicates] == [(2, 1)]


def test_of_a_row_only_the_facts_are_refused_that_contradict(tmp_path: Path) -> None:
    rows = [mquake(("Heron", "Ana"), ("Kestrel", "Bo")), mquake(("Kestrel", "Al"), ("Vale", "Di"))]
    path = as_list(tmp_path / "set", rows)
    file = read_facts(str(path))
    assert [fact.subject for fact in file.facts] == ["Heron", "Vale"]
    assert [finding.partition(": the same")[0] for finding in file.findings()] == [
        f"{path}, record 1: contradicts record 2",
        f"{path}, record 2: contradicts record 1",
    ]
    newest = read_facts(str(path), on_conflict="newest")
    assert [fact.target for fact in newest.facts] == ["Ana", "Al", "Di"]


def test_a_list_is_read_from_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(json.dumps(NASTY),))
    writer.start()
    file = read_facts(str(pipe))
    writer.join()
    assert [fact.to_dict() for fact in file.facts] == NASTY
