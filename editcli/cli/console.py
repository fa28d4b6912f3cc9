"""Everything a command prints: data on stdout, all else on stderr.

On a terminal, data is laid out for reading; in a pipe it is tab-separated and never wrapped; with
`--json` it is JSON. Text from facts and models is never read as markup, and its control characters
are shown instead of obeyed. NO_COLOR and FORCE_COLOR turn colour off and on. Only messages and
tables on a terminal are coloured, never piped data.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from editcli.settings import env_flag
from editors import EditorError

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1  # of the JSON records that commands print

Row = Mapping[str, object]


class Progress(Protocol):
    """A running progress display."""

    def advance(self, n: int = 1) -> None:
        """`n` more units are done."""

    def describe(self, text: str) -> None:
        """Replace the label."""


class _Silent:
    """A progress display that shows nothing."""

    def advance(self, n: int = 1) -> None:
        """Show nothing."""

    def describe(self, text: str) -> None:
        """Show nothing."""


class Output:
    """Prints the results and messages of one command.

    `json_mode` turns data into JSON (JSON Lines for lists). `quiet` reduces data to the leading
    column, usually ids, and drops notes, hints and progress; warnings stay. `verbose` counts `-v`.
    """

    def __init__(
        self,
        *,
        json_mode: bool = False,
        quiet: bool = False,
        verbose: int = 0,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.json_mode = json_mode
        self.quiet = quiet
        self.verbose = verbose
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self._env = os.environ if env is None else env

    @property
    def terminal(self) -> bool:
        """Whether data is laid out for reading on a terminal."""
        return self._stdout.isatty() and not (self.json_mode or self.quiet)

    # Data, on stdout.

    def table(self, rows: Iterable[Row], columns: Sequence[str]) -> None:
        """A list of records; JSON Lines carry all keys of a row, text only `columns`."""
        if self.json_mode:
            for row in rows:
                self.json_line(row)
        elif self.quiet:
            for row in rows:
                self._write(_one_line(row.get(columns[0])))
        elif self._stdout.isatty():
            self._rich_table(rows, columns)
        else:
            self._write("\t".join(columns))
            for row in rows:
                self._write("\t".join(_one_line(row.get(name)) for name in columns))

    def record(self, values: Row) -> None:
        """One record; JSON adds `"schema": 1`, quiet prints the first value only."""
        if self.json_mode:
            self.json_line({"schema": SCHEMA, **values})
        elif self.quiet:
            for value in list(values.values())[:1]:
                self._write(_one_line(value))
        elif self._stdout.isatty():
            width = max((len(key) for key in values), default=0)
            for key, value in values.items():
                self._write(f"{key:<{width}}  {_one_line(value)}")
        else:
            for key, value in values.items():
                self._write(f"{key}\t{_one_line(value)}")

    def json_line(self, values: Row) -> None:
        """One JSON object on one line, whatever the mode."""
        # Escapes keep the line valid JSON where the stream cannot encode every character.
        utf8 = (self._stdout.encoding or "").lower().replace("-", "") in ("utf8", "")
        self._write(json.dumps(values, ensure_ascii=not utf8, allow_nan=False))

    def text(self, line: str) -> None:
        """A line for people, on stdout; absent from JSON and quiet output."""
        if not (self.json_mode or self.quiet):
            self._write(printable(line, keep_lines=True))

    def finding(self, line: str) -> None:
        """A line that is the result itself, so quiet output has it too; absent from JSON."""
        if not self.json_mode:
            self._write(printable(line))

    # Messages, on stderr.

    def note(self, message: str) -> None:
        """Something worth knowing; absent from quiet output."""
        if not self.quiet:
            self._message("", message)

    def debug(self, message: str) -> None:
        """A detail, shown with `-v`."""
        if self.verbose:
            self._message("", message)

    def warn(self, message: str, hint: str = "") -> None:
        """Something that is probably not what the user wants; shown even when quiet."""
        self._message("warning", message)
        if hint:
            self.hint(hint)

    def hint(self, text: str) -> None:
        """The next step, a command or a flag in backticks; absent from quiet output."""
        if not self.quiet:
            self._message("hint", text)

    def error(self, error: EditorError) -> None:
        """`error: ...`, and its hint after a blank line."""
        self._message("error", error.message)
        if error.hint:
            self._stderr.write("\n")
            self._message("hint", error.hint)

    @contextmanager
    def progress(self, label: str, total: int | None, unit: str = "facts") -> Iterator[Progress]:
        """A bar with speed (`unit`/s) and time left, on stderr of a terminal; silent elsewhere."""
        if (
            self.quiet
            or not self._stderr.isatty()
            or env_flag(self._env, "EDITCLI_NO_PROGRESS")
            or self._env.get("TERM") == "dumb"
        ):
            yield _Silent()
            return
        from editcli.cli.progress import progress_bar

        with progress_bar(self._console(self._stderr), label, total, unit) as bar:
            yield bar

    # How data and messages are written.

    def _write(self, line: str) -> None:
        self._stdout.write(line + "\n")

    def _message(self, kind: str, message: str) -> None:
        self._stdout.flush()
        text = printable(message, keep_lines=True)
        if not kind:
            self._stderr.write(text + "\n")
            return
        prefix = f"{kind}:"
        if self._colour(self._stderr):
            prefix = f"\x1b[{_COLOURS[kind]}m{prefix}\x1b[0m"
        self._stderr.write(f"{prefix} {text}\n")

    def _colour(self, stream: TextIO) -> bool:
        if self._env.get("NO_COLOR"):
            return False
        return bool(self._env.get("FORCE_COLOR")) or stream.isatty()

    def _console(self, stream: TextIO) -> Console:
        from rich.console import Console

        return Console(
            file=stream,
            markup=False,
            emoji=False,
            highlight=False,
            no_color=not self._colour(stream),
        )

    def _rich_table(self, rows: Iterable[Row], columns: Sequence[str]) -> None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for name in columns:
            table.add_column(Text(name), overflow="fold")
        for row in rows:
            table.add_row(*(Text(_one_line(row.get(name))) for name in columns))
        self._console(self._stdout).print(table)


_COLOURS = {"error": "1;31", "warning": "1;33", "hint": "1;36"}


def printable(text: str, *, keep_lines: bool = False) -> str:
    """`text` with control characters as escapes, so that it cannot steer a terminal or a pipe."""
    if text.isprintable():
        return text
    return "".join(
        char if char == "\n" and keep_lines else _escape(char) if _is_control(char) else char
        for char in text
    )


def _is_control(char: str) -> bool:
    # Cc: control characters; Cs: surrogates, which cannot be encoded; the others reorder text or
    # break lines.
    return (
        unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
        or "\u202a" <= char <= "\u202e"
        or "\u2066" <= char <= "\u2069"
    )


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _one_line(value: object) -> str:
    """A value as a cell shows it: text as it is, None as nothing, structures as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if value == value and abs(value) < 1e6 else str(value)
    if isinstance(value, list | tuple) and all(isinstance(item, str | int) for item in value):
        return ", ".join(printable(str(item)) for item in value)
    if isinstance(value, Mapping | list | tuple):
        return printable(json.dumps(value, ensure_ascii=False))
    return printable(str(value))
