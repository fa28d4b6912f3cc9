"""A progress bar on a terminal, drawn by Rich; imported only when one is shown."""

from __future__ import annotations

from typing import TextIO

from rich import progress
from rich.console import Console
from rich.text import Text


class _SpeedColumn(progress.ProgressColumn):
    """Units done in a second."""

    def render(self, task: progress.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {task.fields['unit']}/s")


def progress_bar(stream: TextIO, label: str, total: int | None, unit: str) -> progress.Progress:
    """A bar that disappears at the end of ``with``, so that only results stay on the screen."""
    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        _SpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    bar = progress.Progress(*columns, console=Console(file=stream), transient=True)
    bar.add_task(label, total=total, unit=unit)
    return bar
