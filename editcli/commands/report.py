"""`editcli report`: a version and its history as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from editcli.cli.console import Output
from editcli.cli.context import open_store
from editcli.cli.options import JsonOption, QuietOption, StoreOption, VersionOption
from editcli.errors import UsageError
from editcli.store import atomic
from editors import EditorError


def command(
    target: Annotated[
        Path, typer.Argument(metavar="OUT.html", help="The file to write.", show_default=False)
    ],
    version: VersionOption = "HEAD",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite a file that exists.")
    ] = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write one HTML page on a version: history, scores, pruned heads, facts in force.

    The page is complete in itself: it loads nothing, runs no script, and prints well. The same
    store gives the same page.

    \b
    Examples:
      editcli report beliefs.html
      editcli report audit.html --version release --force
      editcli report beliefs.html --json
    """
    from editcli.report.page import render

    out = Output(json_mode=json, quiet=quiet)
    place = target.resolve()  # a link stays one: what it leads to is written
    _require_room(target, place, force=force)
    opened = open_store(store)
    shown = opened.version(version)
    text = render(opened, shown)
    with atomic.explained(f"writing {target}"):
        atomic.write(place, text.encode())
    out.record({"path": str(target), "version": shown.id, "facts": len(shown.facts)})


def _require_room(target: Path, place: Path, *, force: bool) -> None:
    """Raises EditorError, before anything is read, where the page cannot be written."""
    if place.exists() and not place.is_file():
        raise UsageError(f"{target} is not a file", "name a file to write, such as report.html")
    if place.exists() and not force:
        raise EditorError(f"{target} exists", "`--force` overwrites it")
    if not place.parent.is_dir():
        raise UsageError(f"there is no folder {place.parent}", f"`mkdir -p {target.parent}`")
