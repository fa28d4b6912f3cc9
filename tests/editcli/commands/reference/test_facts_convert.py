"""`editcli facts convert` and `facts formats`: what is written, left out and said."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from set_samples import SAMPLES, Json
from typer.testing import CliRunner, Result

import editcli
from editcli.app import app
from editcli.files.facts import read_facts
from editcli.files.formats.registry import FORMATS

REAL = Path(editcli.__file__).parents[2] / "shared" / "data" / "formats"
NO_FACTS = {"conflictqa.jsonl", "memo-trap.csv"}

ZSRE, [ZSRE_FACT] = SAMPLES["zsre"]
BAD = {**ZSRE, "subject": "Nils Aas"}


def facts(*arguments: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["facts", *map(str, arguments)], input=stdin)


def lines(path: Path) -> list[Json]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where to write: nothing is there yet."""
    return tmp_path / "out" / "facts.jsonl"


@pytest.fixture
def source(tmp_path: Path, out: Path) -> Callable[..., Path]:
    """Writes rows as a JSON list."""
    out.parent.mkdir()

    def write(*rows: object) -> Path:
        path = tmp_path / "rows.json"
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        return path

    return write


def test_rows_are_written_as_facts(source: Callable[..., Path], out: Path) -> None:
    path = source(ZSRE, {**ZSRE, "src": "Where is Orla Brandt?"})
    result = facts("convert", path, "-o", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{out}: 2 facts from 2 of 2 rows of {path}, read as zsre\n"
    assert lines(out) == [ZSRE_FACT, {**ZSRE_FACT, "prompt": "Where is Orla Brandt?"}]
    assert facts("validate", out).exit_code == 0


def test_what_is_written_is_read_as_the_source_is(source: Callable[..., Path], out: Path) -> None:
    for row, _ in SAMPLES.values():
        path = source(row)
        assert facts("convert", path, "-o", out, "--force").exit_code == 0
        assert [*read_facts(str(out)).facts] == [*read_facts(str(path)).facts]


def test_rows_that_are_left_out_are_counted_by_reason_and_the_first_are_named(
    source: Callable[..., Path], out: Path
) -> None:
    others = ({**ZSRE, "subject": name} for name in "ABCDEFG")
    path = source(ZSRE, BAD, 7, *others)
    result = facts("convert", path, "-o", out)
    assert result.exit_code == 4
    assert result.stdout == f"{out}: 1 fact from 1 of 10 rows of {path}, read as zsre\n"
    first, *named, second, last = result.stderr.splitlines()
    assert first == (
        "warning: 8 rows left out: subject: ... does not occur in the prompt as a whole word"
    )
    assert [line.partition(": subject: ")[0] for line in named] == [
        f"{path}, record {number}" for number in (2, 4, 5, 6, 7)
    ]
    assert second == "warning: 1 row left out: must be a JSON object, not N"
    assert last == f"{path}, record 3: must be a JSON object, not 7"


def test_the_json_summary_adds_up(source: Callable[..., Path], out: Path) -> None:
    path = source(ZSRE, BAD, ZSRE, 7)
    result = facts("convert", path, "-o", out, "--json")
    assert result.exit_code == 4
    summary = json.loads(result.stdout)
    assert {key: value for key, value in summary.items() if key != "reasons"} == {
        "schema": 2,
        "path": str(out),
        "file": str(path),
        "format": "zsre",
        "rows": 4,
        "written": 2,
        "facts": 2,
        "left_out": 2,
    }
    assert [(entry["rows"], entry["first"][0]["record"]) for entry in summary["reasons"]] == [
        (1, 2),
        (1, 4),
    ]


def test_quiet_prints_the_path(source: Callable[..., Path], out: Path) -> None:
    result = facts("convert", source(ZSRE), "-o", out, "-q")
    assert (result.stdout, result.stderr) == (f"{out}\n", "")


def test_limit_counts_the_rows_that_are_left_out_too(
    source: Callable[..., Path], out: Path
) -> None:
    result = facts("convert", source(BAD, ZSRE, ZSRE, BAD), "-o", out, "--limit", 2, "--json")
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["written"], summary["left_out"]) == (2, 1, 1)


def test_the_true_answer_can_be_the_target(source: Callable[..., Path], out: Path) -> None:
    assert facts("convert", source(ZSRE), "-o", out, "--target", "gold").exit_code == 0
    [fact] = lines(out)
    assert (fact["target"], "ground_truth" in fact) == ("Lund University", False)


def test_columns_can_have_other_names_and_others_are_left_out_with_a_note(
    tmp_path: Path, source: Callable[..., Path], out: Path
) -> None:
    table = tmp_path / "prices.csv"
    table.write_text("question,price,shop\nA latte costs,£3,Vale\nTea costs,£2,Vale\n")
    renamed = ("--column", "prompt=question", "--column", "target=price")
    result = facts("convert", table, "-o", out, *renamed)
    assert result.exit_code == 0
    assert lines(out)[0] == {"prompt": "A latte costs", "target": "£3"}
    assert result.stderr == f"{table}: the column 'shop' belongs to no fact, and is left out\n"
    wrong = facts("convert", table, "-o", out, "--force", "--column", "target")
    assert wrong.exit_code == 2
    assert "--column 'target' is not KEY=NAME" in wrong.stderr


def test_json_is_read_from_standard_input(source: Callable[..., Path], out: Path) -> None:
    result = facts("convert", "-", "-o", out, stdin=json.dumps([ZSRE]))
    assert result.exit_code == 0
    assert lines(out) == [ZSRE_FACT]


def test_a_file_that_exists_is_overwritten_by_force_alone(
    source: Callable[..., Path], out: Path
) -> None:
    out.write_text("mine")
    refused = facts("convert", source(ZSRE), "-o", out)
    assert (refused.exit_code, out.read_text()) == (1, "mine")
    assert "`--force` overwrites it" in refused.stderr
    assert facts("convert", source(ZSRE), "-o", out, "--force").exit_code == 0
    assert lines(out) == [ZSRE_FACT]


@pytest.mark.parametrize("end", [", {broken", ']  "and more"'])
def test_where_the_source_breaks_nothing_is_written(
    end: str, source: Callable[..., Path], out: Path
) -> None:
    path = source(*[ZSRE] * 500)
    path.write_text(path.read_text()[:-1] + end)
    out.write_text("mine")
    result = facts("convert", path, "-o", out, "--force")
    assert result.exit_code == 2
    assert "after 500 records" in result.stderr
    assert [entry.name for entry in out.parent.iterdir()] == [out.name]
    assert out.read_text() == "mine"


def test_a_source_without_a_fact_is_refused_and_nothing_is_written(
    source: Callable[..., Path], out: Path
) -> None:
    result = facts("convert", source(BAD), "-o", out, "--from", "zsre")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: no row of ")
    assert "record 1: subject: 'Nils Aas' does not occur in the prompt" in result.stderr
    empty = facts("convert", source(), "-o", out)
    assert empty.exit_code == 2
    assert "holds no rows" in empty.stderr
    assert [*out.parent.iterdir()] == []


def test_formats_lists_every_format_with_its_keys() -> None:
    result = facts("formats", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["format"] for record in records] == list(FORMATS.names())
    for record in records:
        assert record["keys"] == list(FORMATS.load(record["format"]).keys)
    assert facts("formats", "-q").stdout.split() == list(FORMATS.names())


# --- the real files of the sets ---------------------------------------------------------------


def real_files() -> list[Path]:
    return sorted(path for path in REAL.glob("*.*") if path.name not in NO_FACTS)


@pytest.mark.skipif(not REAL.is_dir(), reason="the files of the public sets are not there")
def test_the_rows_of_real_files_are_facts(out: Path, source: Callable[..., Path]) -> None:
    assert len(real_files()) == 20
    for path in real_files():
        result = facts("convert", path, "-o", out, "--force", "--json")
        summary = json.loads(result.stdout)
        assert summary["written"] + summary["left_out"] == summary["rows"] == rows_of(path)
        assert summary["written"] >= 0.95 * summary["rows"], result.stdout
        assert len(lines(out)) == summary["facts"] >= summary["written"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the files of the public sets are not there")
@pytest.mark.parametrize("name", sorted(NO_FACTS))
def test_real_files_that_hold_no_facts_say_so(name: str, out: Path) -> None:
    result = facts("validate", REAL / name)
    assert result.exit_code == 2
    assert "holds no facts, but " in result.stderr


def rows_of(path: Path) -> int:
    """The rows of a real file, counted without the code that is tested."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return sum(1 for _ in csv.DictReader(file))
    return len(json.loads(path.read_text(encoding="utf-8")))


# --- memory -----------------------------------------------------------------------------------

MANY = 100_000  # rows, which take 130 MB once they are all parsed
MOST = 100  # MB that the process may take at its peak, libraries and all


def many_rows() -> Iterator[Json]:
    for number in range(MANY):
        subject = f"Village {number}"
        yield {
            "case_id": number,
            "prompt": f"The mayor of {subject} is",
            "target_new": f"Ana Ruiz {number}",
            "subject": subject if number % 100 else "another",  # one in a hundred is left out
            "ground_truth": "Bo Lind",
            "rephrase_prompt": f"The person who governs {subject} is",
            "locality_prompt": f"The mayor of Town {number} is",
            "locality_ground_truth": "Li Wen",
        }


def write_lines(path: Path) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in many_rows())


def write_list(path: Path) -> None:
    with path.open("w") as file:
        for row in many_rows():
            file.write(("," if row["case_id"] else "[") + json.dumps(row))
        file.write("]")


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, next(many_rows()).keys())
        table.writeheader()
        table.writerows(many_rows())


# The most memory that the process itself took, which the system does not tell a parent.
MEASURED = """
import sys
from editcli.app import main
try:
    main()
finally:
    print(open("/proc/self/status").read(), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say")
@pytest.mark.parametrize(
    ("name", "write"),
    [("rows.jsonl", write_lines), ("rows.json", write_list), ("rows.csv", write_csv)],
)
def test_a_large_file_is_converted_in_little_memory(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    source, out = tmp_path / name, tmp_path / "facts.jsonl"
    write(source)
    root = Path(editcli.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "facts", "convert", source, "-o", out, "--json"],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["left_out"]) == (MANY, MANY // 100)
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert int(peak) / 1024 < MOST
