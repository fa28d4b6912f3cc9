"""Data on stdout, the rest on stderr; the same data for people, pipes and programs."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editcli.cli.console import NO_PROGRESS, Output, printable
from editors import EditorError

ROWS = [
    {"id": "v1", "message": "first [red]x[/red] [/INST]", "facts": 3},
    {"id": "v2", "message": "tab\there\nand \x1b[31mcolour", "facts": None},
]
COLUMNS = ("id", "message")


class Stream(io.StringIO):
    """A text stream that may claim to be a terminal."""

    def __init__(self, *, terminal: bool = False, encoding: str = "utf-8") -> None:
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    def isatty(self) -> bool:
        return self._terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


class Console:
    """An Output with its two streams."""

    def __init__(
        self,
        *,
        terminal: bool = False,
        json_mode: bool = False,
        quiet: bool = False,
        verbose: int = 0,
        env: dict[str, str] | None = None,
        encoding: str = "utf-8",
    ) -> None:
        self.stdout = Stream(terminal=terminal, encoding=encoding)
        self.stderr = Stream(terminal=terminal)
        self.out = Output(
            json_mode=json_mode,
            quiet=quiet,
            verbose=verbose,
            stdout=self.stdout,
            stderr=self.stderr,
            env={} if env is None else env,
        )


def test_a_piped_table_is_tab_separated_and_never_wrapped() -> None:
    console = Console()
    long = "word " * 100 + "end"
    console.out.table([*ROWS, {"id": "v3", "message": long}], COLUMNS)
    assert console.stdout.getvalue().splitlines() == [
        "id\tmessage",
        "v1\tfirst [red]x[/red] [/INST]",
        r"v2" + "\t" + r"tab\there\nand \x1b[31mcolour",
        f"v3\t{long}",
    ]


def test_a_terminal_table_shows_markup_as_text_and_obeys_no_control_character() -> None:
    console = Console(terminal=True, env={"NO_COLOR": "1"})
    console.out.table(ROWS, COLUMNS)
    text = console.stdout.getvalue()
    assert "first [red]x[/red] [/INST]" in text
    assert "\t" not in text
    assert r"\x1b[31mcolour" in text


def test_a_json_table_is_json_lines_with_all_keys_and_a_schema() -> None:
    console = Console(json_mode=True)
    console.out.table(ROWS, COLUMNS)
    lines = [json.loads(line) for line in console.stdout.getvalue().splitlines()]
    assert lines == [{"schema": 2, **row} for row in ROWS]


def test_a_quiet_table_is_its_first_column() -> None:
    console = Console(quiet=True)
    console.out.table(ROWS, COLUMNS)
    assert console.stdout.getvalue() == "v1\nv2\n"


def test_an_empty_table_is_only_a_header_and_no_json_line() -> None:
    console, machine = Console(), Console(json_mode=True)
    console.out.table([], COLUMNS)
    machine.out.table([], COLUMNS)
    assert console.stdout.getvalue() == "id\tmessage\n"
    assert machine.stdout.getvalue() == ""


def test_a_record_is_one_json_object_with_a_schema() -> None:
    console = Console(json_mode=True)
    console.out.record({"version": "v1", "scores": {"near": 0.5}})
    assert json.loads(console.stdout.getvalue()) == {
        "schema": 2,
        "version": "v1",
        "scores": {"near": 0.5},
    }


def test_a_record_is_readable_on_a_terminal_and_tab_separated_in_a_pipe() -> None:
    record = {"version": "v1", "applied": 1000, "ok": True, "score": 0.123456, "ids": ["a", "b"]}
    terminal, pipe, quiet = Console(terminal=True), Console(), Console(quiet=True)
    for console in (terminal, pipe, quiet):
        console.out.record(record)
    assert terminal.stdout.getvalue().splitlines()[1:3] == ["applied  1000", "ok       yes"]
    assert pipe.stdout.getvalue().splitlines()[3:] == ["score\t0.1235", "ids\ta, b"]
    assert quiet.stdout.getvalue() == "v1\n"


def test_json_stays_valid_where_the_stream_knows_only_ascii() -> None:
    console = Console(json_mode=True, encoding="ascii")
    console.out.json_line({"target": "Österreich"})
    assert console.stdout.getvalue().isascii()
    assert json.loads(console.stdout.getvalue()) == {"target": "Österreich"}


def test_messages_go_to_stderr_and_results_to_stdout() -> None:
    console = Console(verbose=1)
    console.out.note("a note")
    console.out.debug("a detail")
    console.out.warn("odd", "`--fix`")
    console.out.error(EditorError("broken", "`mend`"))
    console.out.text("a line")
    console.out.finding("a finding")
    assert console.stdout.getvalue() == "a line\na finding\n"
    assert console.stderr.getvalue() == (
        "a note\na detail\nwarning: odd\nhint: `--fix`\nerror: broken\n\nhint: `mend`\n"
    )


def test_quiet_keeps_warnings_errors_and_findings_only() -> None:
    console = Console(quiet=True)
    console.out.note("a note")
    console.out.debug("a detail")
    console.out.hint("a hint")
    console.out.text("a line")
    console.out.finding("a finding")
    console.out.warn("odd", "`--fix`")
    assert console.stdout.getvalue() == "a finding\n"
    assert console.stderr.getvalue() == "warning: odd\n"


def test_json_output_holds_no_line_for_people() -> None:
    console = Console(json_mode=True)
    console.out.text("a line")
    console.out.finding("a finding")
    assert console.stdout.getvalue() == ""


@pytest.mark.parametrize(
    ("terminal", "env", "coloured"),
    [
        (False, {}, False),
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
    ],
)
def test_colour_obeys_terminal_no_color_and_force_color(
    terminal: bool, env: dict[str, str], coloured: bool
) -> None:
    console = Console(terminal=terminal, env=env)
    console.out.warn("odd")
    assert ("\x1b[" in console.stderr.getvalue()) is coloured
    assert "warning:" in console.stderr.getvalue()


def test_forced_colour_leaves_piped_data_alone() -> None:
    console = Console(env={"FORCE_COLOR": "1"})
    console.out.table([{"id": "v1", "message": "m"}], COLUMNS)
    assert console.stdout.getvalue() == "id\tmessage\nv1\tm\n"


@pytest.mark.parametrize(
    ("terminal", "quiet", "env", "shown"),
    [
        (True, False, {}, True),
        (False, False, {}, False),
        (True, True, {}, False),
        (True, False, {"EDITCLI_NO_PROGRESS": "1"}, False),
        (True, False, {"TERM": "dumb"}, False),
    ],
)
def test_progress_is_drawn_on_a_terminal_only(
    terminal: bool, quiet: bool, env: dict[str, str], shown: bool
) -> None:
    console = Console(terminal=terminal, quiet=quiet, env=env)
    with console.out.progress("[i]applying", total=3) as progress:
        progress.advance()
        progress.describe("[/i]still applying")
        progress.advance(2)
    assert bool(console.stderr.getvalue()) is shown
    assert console.stdout.getvalue() == ""


def test_a_bar_begins_again_at_each_stage() -> None:
    console = Console(terminal=True)
    with console.out.progress("measuring", total=None, unit="rows") as progress:
        assert progress.bar is not None
        [task] = progress.bar.tasks
        progress.advance(3)
        progress.stage("testing", 8, "prompts")
        assert (task.description, task.total, task.completed) == ("testing", 8, 0)
        assert task.fields["unit"] == "prompts"
        progress.advance(2)
        assert task.completed == 2
    NO_PROGRESS.stage("testing", 8, "prompts")  # and where nothing is shown, nothing happens


@given(st.text())
def test_printable_text_is_one_encodable_line_and_plain_text_is_unchanged(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert shown.encode().decode() == shown
    assert "\x1b" not in shown
    if text.isprintable():
        assert shown == text


@given(st.lists(st.fixed_dictionaries({"id": st.text(), "n": st.integers() | st.none()})))
def test_a_piped_table_has_a_line_for_each_row_and_a_cell_for_each_column(
    rows: list[dict[str, object]],
) -> None:
    console = Console()
    console.out.table(rows, ("id", "n"))
    lines = console.stdout.getvalue().split("\n")[:-1]
    assert len(lines) == len(rows) + 1
    assert all(line.count("\t") == 1 for line in lines)
