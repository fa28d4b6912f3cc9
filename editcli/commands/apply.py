"""`editcli apply`: a file of facts, one version."""

from __future__ import annotations

from typing import Annotated

import typer

from editcli.options import (
    AuthorOption,
    DeviceOption,
    DryRunOption,
    DtypeOption,
    FactFileArgument,
    JsonOption,
    MessageOption,
    OnConflictOption,
    QuietOption,
    SkipBadOption,
    StoreOption,
)
from editcli.output import Output

REFUSED = 4
INTERRUPTED = 130


def command(
    file: FactFileArgument,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N facts.")
    ] = None,
    on_conflict: OnConflictOption = "refuse",
    skip_bad: SkipBadOption = False,
    dry_run: DryRunOption = False,
    message: MessageOption = "",
    author: AuthorOption = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Teach the model a file of facts and save them as one new version.

    Facts that are in force already are left alone, so running the same command again goes on where
    an interrupted one stopped. Ctrl-C finishes the facts in hand and saves them.

    \b
    Examples:
      editcli apply facts.jsonl -m "nightly update"
      editcli apply facts.jsonl --dry-run
      cat corrections.jsonl | editcli apply - --skip-bad --json
    """
    from editcli.factfile import read_facts

    out = Output(json_mode=json, quiet=quiet)
    found = read_facts(file, on_conflict=on_conflict)
    facts = found.require(skip_bad=skip_bad)[:limit]
    for refused in found.findings() if skip_bad else []:
        out.warn(refused)
    if dry_run:
        out.record({"would_apply": len(facts), "refused": len(found.refused)})
        return
    from editcli.editing import apply_facts
    from editcli.invocation import author as who
    from editcli.invocation import command_words
    from editcli.workspace import Workspace

    workspace = Workspace.open(store, device=device, dtype=dtype)
    done = apply_facts(
        workspace,
        facts,
        out,
        operation="apply",
        command=command_words(),
        refused=len(found.refused),
        author=who(author),
        message=message,
    )
    if json:
        out.record(done.to_dict())
    else:
        each = f", {done.seconds / done.applied:.2f} s an edit" if done.applied else ""
        out.text(
            f"{done.version}: {done.applied} applied, {done.superseded} superseded, "
            f"{done.unchanged} in force already, {len(done.failed)} failed "
            f"({done.seconds:.1f} s{each})"
        )
    for fact in done.failed[:10]:
        out.warn(f"fact {fact} is not answered with confidence", f"`editcli show {fact}`")
    if done.left:
        out.warn(
            f"interrupted: {done.left} facts are left; what was done is saved as {done.version}",
            "run the same command again to go on",
        )
        raise typer.Exit(INTERRUPTED)
    if found.refused:
        raise typer.Exit(REFUSED)
