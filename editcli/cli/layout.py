"""Tables and records as they stand on a terminal, laid out by Rich, which is imported only then.

What is short stays whole: ids, versions, times, numbers. Text is wrapped between words. A table
that does not fit so is printed row by row, a value on each line, and loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

GAP = 2  # between columns
WHOLE = 16  # a column of cells up to this width is never broken; a time has it
NARROWEST = 12  # a column of text

Rows = Sequence[Sequence[str]]


def print_table(
    stream: TextIO, columns: Sequence[str], rows: Rows, spare: Sequence[str] = ()
) -> None:
    """Print rows under their headers. ``spare``: columns that are left out, the last one first,
    where the table would not fit otherwise."""
    console = Console(file=stream, highlight=False)
    chosen = [*range(len(columns))]
    left_out = [columns.index(name) for name in reversed(spare)]
    widths = fitted(columns, rows, console.width)
    while widths is None and left_out:
        chosen.remove(left_out.pop(0))
        names = [columns[i] for i in chosen]
        widths = fitted(names, [[row[i] for i in chosen] for row in rows], console.width)
    if widths is None:
        for number, row in enumerate(rows):
            if number:
                stream.write("\n")
            pairs = [pair for pair in zip(columns, row, strict=True) if pair[1]]
            print_record(stream, pairs)
        stream.write("\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for i, width in zip(chosen, widths, strict=True):
        table.add_column(Text(columns[i]), width=width, overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[i]) for i in chosen))
    _print(console, stream, table)


def print_record(stream: TextIO, pairs: Sequence[tuple[str, str]]) -> None:
    """Print keys and their values, each value indented behind the keys."""
    console = Console(file=stream, highlight=False)
    table = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    # A narrow terminal has to break long keys; the values are what is read.
    widest = max((cell_len(key) for key, _ in pairs), default=0)
    table.add_column(width=min(widest, max(NARROWEST, console.width // 2 - GAP)), overflow="fold")
    table.add_column(overflow="fold")
    for key, value in pairs:
        table.add_row(Text(key), Text(value))
    _print(console, stream, table)


def fitted(columns: Sequence[str], rows: Rows, width: int) -> list[int] | None:
    """The widths of columns that fit into ``width``, gaps included; None where none do."""
    wanted, least = [], []
    for number, header in enumerate(columns):
        lines = [header, *(line for row in rows for line in row[number].split("\n"))]
        widest = max(map(cell_len, lines))
        longest_word = max(cell_len(word) for line in lines for word in (line.split() or [""]))
        wanted.append(widest)
        # A word longer than a third of the terminal, such as a path, may be broken.
        text = max(NARROWEST, min(longest_word, width // 3))
        least.append(widest if widest <= WHOLE else min(widest, text))
    room = width - GAP * (len(columns) - 1)
    if sum(wanted) <= room:
        return wanted
    if sum(least) > room:
        return None
    widths, spread = least, room - sum(least)
    while spread:  # the narrowest of those that want more grows
        growing = [i for i in range(len(widths)) if widths[i] < wanted[i]]
        widths[min(growing, key=lambda i: widths[i])] += 1
        spread -= 1
    return widths


def _print(console: Console, stream: TextIO, what: RenderableType) -> None:
    """Print it without the spaces that fill lines up."""
    with console.capture() as captured:
        console.print(what)
    stream.write("".join(f"{line.rstrip()}\n" for line in captured.get().rstrip("\n").split("\n")))
