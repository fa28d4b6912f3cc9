"""A progress bar on a terminal, drawn by Rich; imported only when one is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text


class _SpeedColumn(ProgressColumn):
    """Units done in a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self._unit}/s")


class _Bar:
    def __init__(self, rich: RichProgress, label: str, total: int | None) -> None:
        self._rich = rich
        self._task = rich.add_task(label, total=total)

    def advance(self, n: int = 1) -> None:
        self._rich.advance(self._task, n)

    def describe(self, text: str) -> None:
        self._rich.update(self._task, description=text)


@contextmanager
def progress_bar(console: Console, label: str, total: int | None, unit: str) -> Iterator[_Bar]:
    """A bar that disappears at the end of ``with``, so that only results stay on the screen."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(unit),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, transient=True) as rich:
        yield _Bar(rich, label, total)
