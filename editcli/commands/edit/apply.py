"""`editcli apply`: a file of facts, one version."""

from __future__ import annotations

import math
from dataclasses import replace
from os import environ
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from editcli import exit_codes
from editcli.cli import options
from editcli.cli.console import Output
from editcli.cli.options import RUNS_MODEL, WRITES, Invocation, shared
from editcli.errors import UsageError
from editcli.files.facts import FactFile, read_facts
from editcli.operations.editing.distributed import Ranks
from editcli.operations.editing.forecast import Objections, forecast, told_forecast
from editcli.operations.scores.minima import (
    CanariesOption,
    Gate,
    MinGeneralizationOption,
    MinLocalityOption,
    MinReliabilityOption,
)
from editcli.store.edits import edits_of
from editcli.wording import SHOW_ANSWERS, counted_are

if TYPE_CHECKING:
    from editcli.operations.editing.apply import ApplyResult

SHOWN = 10  # remarks on lines, and ids of failed facts, that are printed


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
    file: options.FactFileArgument,
    limit: Annotated[int | None, Option(metavar="N", min=1, help="Only the first N facts.")] = None,
    batch: Annotated[
        int | None,
        Option(
            metavar="N",
            min=1,
            help="Train at most N facts together. Smaller batches are slower, but lose less work "
            "when interrupted.",
        ),
    ] = None,
    memory_budget: Annotated[
        float | None,
        Option(
            metavar="GIB",
            min=0,
            help="Memory for the states that training records; the rest goes to temporary files.",
        ),
    ] = None,
    plain: options.PlainOption = False,
    canaries: CanariesOption = None,
    min_reliability: MinReliabilityOption = None,
    min_generalization: MinGeneralizationOption = None,
    min_locality: MinLocalityOption = None,
    on_conflict: options.OnConflictOption = "refuse",
    skip_bad: options.SkipBadOption = False,
    dry_run: options.DryRunOption = False,
) -> None:
    """Edit a file of facts into the model, as one new version.

    Facts that are in force already are left alone. So after an interruption, run the same command
    again: it goes on where it stopped. Ctrl-C finishes the facts that are being trained, and saves
    them. Facts that the model does not answer after training are saved too, and named; the exit
    code is then 1 (4 where lines were left out as well).

    With a minimum, the new version is scored before it counts: if a score is below, it is kept as
    rejected, HEAD stays, and the exit code is 3.

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
    # Of several processes, the first one prints for all; the others print only their errors.
    call = replace(call, quiet=call.quiet or not ranks.leads)
    out = call.out
    if file == "-" and ranks.count > 1:
        raise UsageError(
            "standard input cannot be read by several processes", "name a file: `apply FILE`"
        )
    if memory_budget is not None and not math.isfinite(memory_budget):
        raise UsageError(
            f"--memory-budget takes a number, not {memory_budget}",
            "without it, the states are held in memory as far as there is any",
        )
    fact_file = read_facts(file, on_conflict=on_conflict)
    fact_file.require(skip_bad=skip_bad)  # before a large model is loaded, not after
    store = call.open_store()
    usual = store.config.minima
    gate = Gate.of(canaries, min_reliability, min_generalization, min_locality, usual)
    head = store.head()
    edits = edits_of(store, head)
    fact_file = fact_file.refusing(Objections(store, head, edits).to)
    out.note(*fact_file.remarks(SHOWN))
    if dry_run:
        if ranks.leads:
            facts = fact_file.require(skip_bad=skip_bad)[:limit]
            counts = forecast(edits, facts)
            about = {"version": None, "parent": head.id, "dry_run": True}
            if call.json:
                out.record({**about, **counts, "refused": len(fact_file.refused)})
            out.text(told_forecast(counts))
            _warn_refused(out, fact_file)
        return

    from editcli.operations.editing.apply import apply_facts, help_to_apply
    from editcli.operations.session import Session
    from editors.methods.applying import Limits

    session = Session.open(call, store, ranks.device(call.device))
    fact_file = fact_file.refusing(session.why_unfit, limit)
    facts = fact_file.require(skip_bad=skip_bad)
    memory_bytes = None if memory_budget is None else round(memory_budget * 2**30)
    limits = Limits(batch, memory_bytes, chats=not plain)
    if not ranks.leads:
        help_to_apply(session, facts, ranks, limits)
        return
    result = apply_facts(
        session,
        facts,
        call,
        operation="apply",
        refused=len(fact_file.refused),
        limits=limits,
        ranks=ranks,
        gate=gate,
    )
    if call.json or call.quiet:
        out.record({**result.to_dict(), "dry_run": False})
    else:
        out.text(_summary(result))
    if result.failed:
        more = " and others" if len(result.failed) > SHOWN else ""
        out.warn(
            f"{counted_are(len(result.failed), 'fact')} saved, but not answered by the model: "
            f"{', '.join(result.failed[:SHOWN])}{more}",
            SHOW_ANSWERS,
        )
    if result.left:
        out.warn(
            f"interrupted: {counted_are(result.left, 'fact')} left; what was done is saved as "
            f"{result.version}",
            "run the same command again to go on",
        )
        raise Exit(exit_codes.INTERRUPTED)
    if result.missed:
        raise Exit(exit_codes.BELOW_THRESHOLD)
    _warn_refused(out, fact_file)
    if result.failed:
        raise Exit(exit_codes.FAILED)


def _summary(result: ApplyResult) -> str:
    if not (result.applied or result.updated or result.left):
        count = len(result.unchanged)
        every = "the fact is" if count == 1 else f"all {count} facts are"
        return f"{result.version}: nothing to do, {every} in force already"
    counts = [
        (result.applied, "applied"),
        (result.superseded, "superseded"),
        (len(result.updated), "updated"),
        (len(result.unchanged) - len(result.updated), "in force already"),
        (len(result.failed), "failed"),
    ]
    listed = ", ".join(f"{count} {what}" for count, what in counts if count or what == "applied")
    each = f", {result.seconds / result.applied:.2f} s an edit" if result.applied else ""
    return f"{result.version}: {listed} ({result.seconds:.1f} s{each})"


def _warn_refused(out: Output, fact_file: FactFile) -> None:
    """Name the lines left out, and exit with 4 if there are any."""
    for finding in fact_file.findings():
        out.warn(f"left out {finding}")
    if fact_file.refused:
        raise Exit(exit_codes.SOME_REFUSED)
