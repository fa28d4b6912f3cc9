"""`editcli apply`: a file of facts, one version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from os import environ
from typing import TYPE_CHECKING, Annotated

import typer

from editcli import exit_codes
from editcli.cli.console import Output
from editcli.cli.invocation import Invocation, counted
from editcli.cli.options import (
    RUNS_MODEL,
    WRITES,
    DryRunOption,
    FactFileArgument,
    OnConflictOption,
    SkipBadOption,
    shared,
)
from editcli.errors import UsageError
from editcli.files.facts import FactFile, read_facts
from editcli.operations.distributed import Ranks
from editcli.store.edits import edits_of

if TYPE_CHECKING:
    from editcli.operations.apply import ApplyResult
    from editors import Fact
    from editors.methods.edit_state import EditState

SHOWN = 10  # lines remarked on, and failed facts, one by one


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
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
            help="Train at most N facts together. Smaller batches are slower, but lose less work "
            "when interrupted.",
        ),
    ] = None,
    memory_budget: Annotated[
        float | None,
        typer.Option(
            "--memory-budget",
            metavar="GIB",
            min=0,
            help="Memory for recorded states; the rest goes to temporary files.",
        ),
    ] = None,
    on_conflict: OnConflictOption = "refuse",
    skip_bad: SkipBadOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Edit a file of facts into the model, as one new version.

    Facts that are in force already are left alone. So after an interruption, run the same command
    again: it goes on where it stopped. Ctrl-C finishes the facts in hand and saves them. Facts that
    the model does not answer after training are saved too, and named; the exit code is then 1 (4
    where lines were left out as well).

    Under torchrun, each process trains some of the facts, and the first one saves the version. The
    result is the same as with one process. Ctrl-C then stops at once; finished work is kept.

    \b
    Examples:
      editcli apply facts.jsonl -m "nightly update"
      editcli apply facts.jsonl --dry-run
      cat corrections.jsonl | editcli apply - --skip-bad --json
      torchrun --nproc-per-node 4 -m editcli apply facts.jsonl
    """
    ranks = Ranks.of(environ)
    # Of several processes the first one speaks for all; the others name what goes wrong in them.
    call = replace(call, quiet=call.quiet or not ranks.leads)
    out = call.out
    if file == "-" and ranks.count > 1:
        raise UsageError("standard input cannot be read by several processes", "name a file")
    found = read_facts(file, on_conflict=on_conflict)
    found.require(skip_bad=skip_bad)  # said before a large model is loaded, not after
    store = call.open_store()
    edits = edits_of(store)
    found = found.refusing(_id_clash(edits))
    for line in found.remarks(SHOWN):
        out.note(line)
    if dry_run:
        if ranks.leads:
            facts = found.require(skip_bad=skip_bad)[:limit]
            out.record(_forecast(edits, facts, len(found.refused)))
            _warn_refused(out, found)
        return

    from editcli.operations.apply import apply_facts, help_to_apply
    from editcli.operations.session import Session
    from editors.methods.base import Limits

    session = Session.open(call, store, ranks.device(call.device))
    found = found.refusing(session.why_unfit, limit)
    facts = found.require(skip_bad=skip_bad)
    limits = Limits(batch, None if memory_budget is None else round(memory_budget * 2**30))
    if not ranks.leads:
        help_to_apply(session, facts, ranks, limits)
        return
    done = apply_facts(
        session,
        facts,
        call,
        operation="apply",
        refused=len(found.refused),
        limits=limits,
        ranks=ranks,
    )
    if call.json or call.quiet:
        out.record(done.to_dict())
    else:
        out.text(_summary(done))
    if done.failed:
        more = " and others" if len(done.failed) > SHOWN else ""
        out.warn(
            f"{_facts_are(len(done.failed))} saved, but not answered by the model: "
            f"{', '.join(done.failed[:SHOWN])}{more}",
            "`editcli check --per-fact` shows what the model says",
        )
    if done.left:
        out.warn(
            f"interrupted: {_facts_are(done.left)} left; what was done is saved as {done.version}",
            "run the same command again to go on",
        )
        raise typer.Exit(exit_codes.INTERRUPTED)
    _warn_refused(out, found)
    if done.failed:
        raise typer.Exit(exit_codes.FAILED)


def _summary(done: ApplyResult) -> str:
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
    listed = ", ".join(f"{count} {what}" for count, what in counts if count or what == "applied")
    each = f", {done.seconds / done.applied:.2f} s an edit" if done.applied else ""
    return f"{done.version}: {listed} ({done.seconds:.1f} s{each})"


def _forecast(edits: EditState, facts: Sequence[Fact], refused: int) -> dict[str, object]:
    """What applying would do, as far as can be told without the model."""
    current = {fact.prompt: fact.target for fact in edits.in_force()}
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


def _id_clash(edits: EditState) -> Callable[[Fact], str | None]:
    """Objects to a fact whose id names another fact, in force or not: the record needs both."""

    def objection(fact: Fact) -> str | None:
        other = edits.facts.get(fact.id, fact)
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
        raise typer.Exit(exit_codes.SOME_REFUSED)


def _facts_are(count: int) -> str:
    return f"{counted(count, 'fact')} {'is' if count == 1 else 'are'}"
