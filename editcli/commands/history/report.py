"""`editcli report`: a version and its history as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from editcli.cli.options import READS, Invocation, VersionOption, shared
from editcli.errors import UsageError
from editcli.files.targets import writable
from editcli.store.files import atomic

STDOUT = "-"


@shared(*READS)
def command(
    call: Invocation,
    target: Annotated[
        Path,
        Argument(
            metavar="OUT.html",
            help="The file to write, or - for standard output.",
            show_default=False,
        ),
    ],
    version: VersionOption = "HEAD",
    force: Annotated[bool, Option("--force", "-f", help="Overwrite a file that exists.")] = False,
) -> None:
    """Write one HTML page about a version, for an auditor to keep.

    It shows who did what, scores over time, old answers beside new ones with their sources, the
    history with its branches, and the pruned heads. The page is complete in itself: it loads
    nothing, and prints well. Its one script searches and sorts facts. The same store gives the
    same page.

    \b
    Examples:
      editcli report beliefs.html
      editcli report audit.html --version release --force
      editcli report beliefs.html --json
    """
    from editcli.report.page import render

    streams = str(target) == STDOUT
    if streams and call.json:
        raise UsageError(
            "the page is on standard output, where --json prints its record", "name a file"
        )
    path = None if streams else writable(target, "report.html", force=force)
    store = call.open_store()
    shown = store.version(version)
    text = render(store, shown)
    if path is None:
        call.out.stdout.write(text)
        return
    with atomic.explained(f"writing {target}"):
        atomic.write(path, text.encode())
    call.out.record({"path": str(target), "version": shown.id, "facts": store.count(shown)})
