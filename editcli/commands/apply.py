"""`editcli apply`: a file of facts, one version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import environ
from typing import TYPE_CHECKING, Annotated

import typer

from editcli.cli.console import Output
from editcli.cli.options import (
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
    VerboseOption,
)
from editcli.errors import UsageError
from editcli.operations.distributed import Ranks

if TYPE_CHECKING:
    from editcli.files.facts import FactFile
    from editcli.operations.apply import Outcome
    from editcli.store.ledger import Ledger
    from editors import Fact

REFUSED = 4
INTERRUPTED = 130
SHOWN = 10  # lines remarked on, and failed facts, one by one


def command(
    file: FactFileArgument,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N facts.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            metavar="N",
            min=1,
            help="Take in at most N facts at a time (default: a shard full). Fewer is slower, and "
            "loses less when stopped.",
        ),
    ] = None,
    memory_budget: Annotated[
        float | None,
        typer.Option(
            "--memory-budget",
            metavar="GIB",
            min=0,
            help="Memory for recorded states; what is beyond goes to temporary files.",
        ),
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
    verbose: VerboseOption = 0,
) -> None:
    """Teach the model a file of facts and save them as one new version.

    Facts that are in force already are left alone, so running the same command again goes on where
    an interrupted one stopped. Ctrl-C finishes the facts in hand and saves them. Facts that the
    model does not answer after all are saved too, and named; the exit code is then 1 (4 where lines
    were left out as well).

    Under torchrun each process trains some of the shards, and the first one saves the version: the
    same as one process would have saved. Ctrl-C then stops at once; finished shards are kept, and
    the next run goes on from them.

    \b
    Examples:
      editcli apply facts.jsonl -m "nightly update"
      editcli apply facts.jsonl --dry-run
      cat corrections.jsonl | editcli apply - --skip-bad --json
      torchrun --nproc-per-node 4 -m editcli apply facts.jsonl
    """
    from editcli.cli.context import open_store
    from editcli.files.facts import read_facts
    from editcli.store.ledger import Ledger

    ranks = Ranks.of(environ)
    # Of several processes the first one speaks for all; the others name what goes wrong in them.
    out = Output(json_mode=json, quiet=quiet or not ranks.leads, verbose=verbose)
    if file == "-" and ranks.count > 1:
        raise UsageError("standard input cannot be read by several processes", "name a file")
    found = read_facts(file, on_conflict=on_conflict)
    found.require(skip_bad=skip_bad)  # said before a large model is loaded, not after
    opened = open_store(store)
    ledger = Ledger.of(opened)
    found = found.refusing(_id_clash(ledger))
    for line in found.remarks(SHOWN):
        out.note(line)
    if dry_run:
        if not ranks.leads:
            return
        out.record(_forecast(ledger, found.require(skip_bad=skip_bad)[:limit], len(found.refused)))
        _warn_refused(out, found)
        return
    from editcli.cli.context import author as who
    from editcli.cli.context import command_words
    from editcli.operations.apply import apply_facts, help_to_apply
    from editcli.operations.session import Workspace
    from editors.methods.base import Limits

    workspace = Workspace.open(opened, device=ranks.device(device), dtype=dtype, verbose=verbose)
    found = found.refusing(workspace.unfit, limit)
    facts = found.require(skip_bad=skip_bad)
    memory = None if memory_budget is None else round(memory_budget * 2**30)
    limits = Limits(at_once=batch, memory=memory)
    if not ranks.leads:
        help_to_apply(workspace, facts, ranks, limits)
        return
    done = apply_facts(
        workspace,
        facts,
        out,
        operation="apply",
        command=command_words(),
        refused=len(found.refused),
        author=who(author),
        message=message,
        limits=limits,
        ranks=ranks,
    )
    if json or quiet:
        out.record(done.to_dict())
    else:
        out.text(_told(done))
    if done.failed:
        out.warn(
            f"{_facts(len(done.failed))} saved, but the model does not answer as they say: "
            f"{', '.join(done.failed[:SHOWN])}{' and others' * (len(done.failed) > SHOWN)}",
            "`editcli check --per-fact` shows what the model says",
        )
    if done.left:
        out.warn(
            f"interrupted: {_facts(done.left)} left; what was done is saved as {done.version}",
            "run the same command again to go on",
        )
        raise typer.Exit(INTERRUPTED)
    _warn_refused(out, found)
    if done.failed:
        raise typer.Exit(1)


def _told(done: Outcome) -> str:
    if not done.applied and not done.left:
        count = len(done.unchanged)
        every = "the fact is" if count == 1 else f"all {count} facts are"
        return f"{done.version}: nothing to do, {every} in force already"
    counts = [
        (done.applied, "applied"),
        (done.superseded, "superseded"),
        (len(done.unchanged), "in force already"),
        (len(done.failed), "failed"),
    ]
    said = ", ".join(f"{count} {what}" for count, what in counts if count or what == "applied")
    each = f", {done.seconds / done.applied:.2f} s an edit" if done.applied else ""
    return f"{done.version}: {said} ({done.seconds:.1f} s{each})"


def _forecast(ledger: Ledger, facts: Sequence[Fact], refused: int) -> dict[str, object]:
    """What applying would do, as far as can be told without the model."""
    current = {fact.prompt: fact.target for fact in ledger.in_force()}
    known = unchanged = 0
    for fact in facts:
        target = current.get(fact.prompt)
        known += target is not None
        unchanged += target == fact.target
    return {
        "would_apply": len(facts) - unchanged,
        "would_supersede": known - unchanged,
        "unchanged": unchanged,
        "refused": refused,
    }


def _id_clash(ledger: Ledger) -> Callable[[Fact], str | None]:
    """Objects to a fact whose id names another fact, in force or not: the record needs both."""
    known = {fact.id: fact for fact in ledger.facts}

    def objection(fact: Fact) -> str | None:
        other = known.get(fact.id, fact)
        if other.prompt != fact.prompt:
            return f"id: {fact.id!r} names another fact in the store: {other.prompt!r}"
        if other.target != fact.target:
            return (
                f"id: {fact.id!r} names the fact in the store that says {other.target!r}; "
                "what says otherwise needs an id of its own"
            )
        return None

    return objection


def _warn_refused(out: Output, found: FactFile) -> None:
    """Name the lines left out, and exit with 4 if there are any."""
    for finding in found.findings():
        out.warn(f"left out {finding}")
    if found.refused:
        raise typer.Exit(REFUSED)


def _facts(count: int) -> str:
    return "1 fact is" if count == 1 else f"{count} facts are"
