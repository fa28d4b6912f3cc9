"""`editcli verify`: is the store what was written, and the base what it was made on?"""

from __future__ import annotations

from typing import Annotated

import typer

from editcli.cli.console import Output
from editcli.cli.context import open_store
from editcli.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    StoreOption,
    VerboseOption,
)
from editcli.errors import UsageError
from editcli.models import loading as models
from editcli.store.ledger import EDITS, FACTS, Ledger
from editcli.store.store import Problem, Store
from editors import EditorError

DAMAGED = 1


def command(
    no_base: Annotated[
        bool, typer.Option("--no-base", help="Do not load the base model to compare it.")
    ] = False,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Check every hash, the chain of the history, the facts and the base model.

    Exits with 1, and lists all that is wrong, unless the store is sound.

    \b
    Examples:
      editcli verify
      editcli verify --no-base
      editcli verify --json
    """
    out = Output(json_mode=json, quiet=quiet, verbose=verbose)
    opened = open_store(store)
    problems = opened.verify() or _fact_problems(opened)
    amiss = None if no_base else _base_error(opened, device, dtype, verbose)
    if amiss:
        problems.append(Problem("base model", amiss.message))
    if json:
        found = [{"what": problem.what, "detail": problem.detail} for problem in problems]
        out.record({"sound": not problems, "base_checked": not no_base, "problems": found})
    for problem in problems:
        out.finding(f"{problem.what}: {problem.detail}")
    if amiss and amiss.hint and not json:
        out.hint(amiss.hint)
    if problems:
        raise typer.Exit(DAMAGED)
    base = "not compared" if no_base else "the one it was made on"
    count = len(opened.versions())
    out.text(f"sound: {count} version{'s' * (count != 1)}, the base is {base}")


def _fact_problems(store: Store) -> list[Problem]:
    """Versions whose facts cannot be read, or are not those that the manifest lists."""
    problems = []
    read: dict[tuple[str | None, str | None], set[str]] = {}  # versions share these blobs
    for version in store.versions():
        key = (version.blobs.get(FACTS), version.blobs.get(EDITS))
        try:
            if key not in read:
                read[key] = {fact.id for fact in Ledger.of(store, version).in_force()}
        except EditorError as error:
            problems.append(Problem(f"versions/{version.id}.json", error.message))
            continue
        if read[key] != set(version.facts):
            detail = f"lists {len(version.facts)} facts, {len(read[key])} are in force"
            problems.append(Problem(f"versions/{version.id}.json", detail))
    return problems


def _base_error(store: Store, device: str, dtype: str, verbose: int) -> EditorError | None:
    """Why the base cannot be loaded, or is another; raises where a flag is at fault."""
    try:
        models.load_base(store.config, device=device, dtype=dtype, verbose=verbose)
    except UsageError:
        raise
    except EditorError as error:
        return error
    return None
