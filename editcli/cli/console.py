"""Everything a command prints: data on stdout, all else on stderr.

On a terminal, data is laid out for reading; in a pipe it is tab-separated and never wrapped; with
`--json` it is JSON. Text from facts and models is never read as markup, and its control characters
are shown instead of obeyed. NO_COLOR and FORCE_COLOR turn colour off and on. Only messages and
tables on a terminal are coloured, never piped data.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO, TypeGuard

from editcli.settings import env_flag
from editors import EditorError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

SCHEMA = 2  # of the JSON records that commands print; docs/json.md

Row = Mapping[str, object]


@dataclass(frozen=True)
class Progress:
    """A progress display: a bar, or nothing."""

    bar: RichProgress | None = None

    def advance(self, n: int = 1) -> None:
        """`n` more units are done."""
        if self.bar:
            self.bar.advance(self.bar.task_ids[0], n)

    def reach(self, done: int) -> None:
        """`done` units are done in all."""
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=done)

    def describe(self, text: str) -> None:
        """Replace the label."""
        if self.bar:
            self.bar.update(self.bar.task_ids[0], description=text)

    def stage(self, label: str, total: int | None, unit: str) -> None:
        """Begin again at 0, for `total` units of something else (None: not known)."""
        if self.bar:
            self.bar.reset(self.bar.task_ids[0], total=total, description=label, unit=unit)


NO_PROGRESS = Progress()


@dataclass(frozen=True)
class Output:
    """Prints the results and messages of one command.

    `json_mode` turns data into JSON (JSON Lines for lists). `quiet` reduces data to the leading
    column, usually ids, and drops notes, hints and progress; warnings stay. `verbose` counts `-v`.
    """

    json_mode: bool = False
    quiet: bool = False
    verbose: int = 0
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def terminal(self) -> bool:
        """Whether data is laid out for reading on a terminal."""
        return self.stdout.isatty() and not (self.json_mode or self.quiet)

    # Data, on stdout.

    def table(
        self, rows: Iterable[Row], columns: Sequence[str] = (), spare: Sequence[str] = ()
    ) -> None:
        """A list of records; JSON Lines carry all keys of a row, text only `columns` (by default
        all keys of the first row, which there must be). `spare`: those that a terminal which is
        too narrow goes without, the last one first."""
        if not columns:
            rows = list(rows)
            columns = list(rows[0])
        if self.json_mode:
            for row in rows:
                self.record(row)
        elif self.terminal:
            from editcli.cli.layout import print_table

            cells = [[_laid_out(row.get(name)) for name in columns] for row in rows]
            print_table(self.stdout, columns, cells, spare)
        else:
            if self.quiet:
                columns = columns[:1]
            else:
                self._write("\t".join(columns))
            for row in rows:
                self._write("\t".join(_one_line(row.get(name)) for name in columns))

    def record(self, values: Row) -> None:
        """One record; JSON adds `"schema": 2`, quiet prints the first value only."""
        if self.json_mode:
            self.json_line({"schema": SCHEMA, **values})
        elif self.quiet:
            self._write(_one_line(next(iter(values.values()))))
        elif self.terminal:
            from editcli.cli.layout import print_record

            print_record(self.stdout, [(key, _laid_out(value)) for key, value in values.items()])
        else:
            for key, value in values.items():
                self._write(f"{key}\t{_one_line(value)}")

    def json_line(self, values: Row) -> None:
        """One JSON object on one line, whatever the mode."""
        # Escapes keep the line valid JSON where the stream cannot encode every character.
        utf8 = (self.stdout.encoding or "").lower().replace("-", "") in ("utf8", "")
        self._write(json.dumps(values, ensure_ascii=not utf8, allow_nan=False))

    def text(self, *lines: str) -> None:
        """Lines for people, on stdout; absent from JSON and quiet output."""
        if not self.quiet:
            self.finding(*lines)

    def finding(self, *lines: str) -> None:
        """Lines that are the result itself, so quiet output has them too; absent from JSON."""
        if not self.json_mode:
            for line in lines:
                self._write(printable(line))

    def passage(self, text: str) -> None:
        """Text that is the result itself, with its line breaks; absent from JSON."""
        if not self.json_mode:
            self._write(printable_lines(text))

    def piece(self, text: str) -> None:
        """A piece of text that grows on a terminal, with its line breaks; shown at once."""
        self.stdout.write(printable_lines(text))
        self.stdout.flush()

    def flush(self) -> None:
        """Hand on what was printed, for a reader that waits for it."""
        self.stdout.flush()

    # Messages, on stderr.

    def note(self, *messages: str) -> None:
        """Things worth knowing; absent from quiet output."""
        if not self.quiet:
            for message in messages:
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
        """`error: ...`, and its hint after a blank line; with JSON a record on stdout, as there a
        program reads."""
        if self.json_mode:
            self.record({"error": error_record(error)})
            return
        self._message("error", error.message)
        if error.hint:
            self.stderr.write("\n")
            self._message("hint", error.hint)

    def line_error(self, number: int, error: EditorError) -> None:
        """An error about one line of standard input, after which the next is read: a warning, with
        JSON a record."""
        if self.json_mode:
            self.record({"line": number, "error": error_record(error)})
        else:
            self.warn(f"<stdin>:{number}: {error.message}", error.hint)

    @contextmanager
    def progress(self, label: str, total: int | None, unit: str = "facts") -> Iterator[Progress]:
        """A bar with speed (`unit`/s) and time left, on stderr of a terminal; silent elsewhere."""
        if (
            self.quiet
            or not self.stderr.isatty()
            or env_flag(self.env, "EDITCLI_NO_PROGRESS")
            or self.env.get("TERM") == "dumb"
        ):
            yield Progress()
            return
        from editcli.cli.progress import progress_bar

        with progress_bar(self.stderr, label, total, unit) as bar:
            yield Progress(bar)

    # How data and messages are written.

    def _write(self, line: str) -> None:
        self.stdout.write(line + "\n")

    def _message(self, kind: str, message: str) -> None:
        with suppress(OSError):  # of a full disk, which the message may be about
            self.stdout.flush()
        prefix = f"{kind}: " if kind else ""
        coloured = self.env.get("FORCE_COLOR") or self.stderr.isatty()
        if kind and coloured and not self.env.get("NO_COLOR"):
            prefix = f"\x1b[{_COLOURS[kind]}m{kind}:\x1b[0m "
        self.stderr.write(f"{prefix}{printable_lines(message)}\n")


def error_record(error: EditorError) -> dict[str, object]:
    """An error as JSON."""
    return {
        "kind": error.kind,
        "message": error.message,
        "hint": error.hint or None,
        "exit_code": error.exit_code,
    }


_COLOURS = {"error": "1;31", "warning": "1;33", "hint": "1;36"}

# Control characters, surrogates (which cannot be encoded), and what breaks lines or reorders text.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """`text` with control characters as escapes, so that it cannot steer a terminal or a pipe."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """`text` as :func:`printable` makes it, with its line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def _one_line(value: object) -> str:
    """A value as a cell of a pipe shows it, on one line."""
    return printable(_text_of(value))


def _laid_out(value: object) -> str:
    """A value as a terminal shows it, with its line breaks; texts of a list each on its own."""
    if isinstance(value, list | tuple) and any(" " in item for item in value if _is_text(item)):
        return "\n".join(f"- {printable_lines(_text_of(item))}" for item in value)
    return printable_lines(_text_of(value))


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str)


def _text_of(value: object) -> str:
    """A value in words: text as it is, None as nothing, structures as JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e6 else str(value)
    if isinstance(value, list | tuple) and all(isinstance(item, str | int) for item in value):
        value = ", ".join(map(str, value))
    elif isinstance(value, Mapping | list | tuple):
        value = json.dumps(value, ensure_ascii=False)
    return str(value)
