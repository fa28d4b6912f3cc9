"""A progress bar on a terminal, drawn by Rich; imported only when one is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich import progress
from rich.console import Console
from rich.text import Text

from editcli.cli.console import Progress


class _SpeedColumn(progress.ProgressColumn):
    """Units done in a second."""

    def render(self, task: progress.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {task.fields['unit']}/s")


@dataclass(frozen=True)
class _Bar(Progress):
    rich: progress.Progress
    task: progress.TaskID

    def advance(self, n: int = 1) -> None:
        self.rich.advance(self.task, n)

    def describe(self, text: str) -> None:
        self.rich.update(self.task, description=text)


@contextmanager
def progress_bar(console: Console, label: str, total: int | None, unit: str) -> Iterator[Progress]:
    """A bar that disappears at the end of ``with``, so that only results stay on the screen."""
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        _SpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console, transient=True) as rich:
        yield _Bar(rich, rich.add_task(label, total=total, unit=unit))
