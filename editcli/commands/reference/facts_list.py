"""`editcli facts list`: the facts of a store."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from typer import Option

from editcli.cli.completion import complete_author
from editcli.cli.options import READS, Invocation, VersionOption, shared
from editcli.operations.fact_rows import (
    COLUMNS,
    SPARE,
    STATES,
    StateName,
    chosen_events,
    fact_rows,
    for_people,
)
from editcli.store.tables.listing import Wanted

ON_A_TERMINAL = 50  # facts, unless `--limit` says otherwise


@shared(*READS)
def command(
    call: Invocation,
    version: VersionOption = "HEAD",
    match: Annotated[
        str,
        Option(metavar="TEXT", help="Only facts with this text in prompt, target or a name."),
    ] = "",
    tag: Annotated[
        list[str] | None, Option(metavar="TAG", help="Only facts with this tag of their own.")
    ] = None,
    source: Annotated[
        str, Option(metavar="TEXT", help="Only facts with this text in their source.")
    ] = "",
    who: Annotated[
        str | None,
        Option(metavar="WHO", help="Only facts by this author.", autocompletion=complete_author),
    ] = None,
    since: Annotated[
        str | None,
        Option(metavar="WHEN", help="Only facts since then: 2026-03-01, or with a time."),
    ] = None,
    state: Annotated[StateName, Option(help="Which facts, by what became of them.")] = "in-force",
    limit: Annotated[
        int | None,
        Option(
            metavar="N",
            min=0,
            help="Only the newest N; 0 for all, which is the default but on a terminal.",
        ),
    ] = None,
) -> None:
    """List facts, the newest first: their ids, old and new answers, when and by whom.

    `editcli undo FACT` takes one back by its id, and `editcli show FACT` tells more about it. The
    old answer is that of the fact before, or the one that the fact itself names.

    \b
    Examples:
      editcli facts list
      editcli facts list --match Italy
      editcli facts list --state all --since 2026-03-01 --who ann --json
    """
    store, out = call.open_store(), call.out
    chosen = store.version(version)
    wanted = Wanted(
        states=("in force", "superseded", "undone") if state == "all" else (STATES[state],),
        match=match,
        tags=tag or (),
        source=source,
        events=chosen_events(store, who, since),
    )
    listed = store.list_facts(chosen, wanted)
    default = ON_A_TERMINAL if out.terminal else 0
    most = (default if limit is None else limit) or None
    rows = fact_rows(store, islice(listed, most))
    out.table(rows if call.json else map(for_people, rows), COLUMNS, spare=SPARE)
    if most and limit is None and next(listed, None):
        out.note(f"these are the newest {most}; `editcli facts list --limit 0` lists all")
