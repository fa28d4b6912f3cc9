"""`editcli conflict locate`: which heads carry memory, and which the passage."""

from __future__ import annotations

import time
from dataclasses import asdict
from shutil import get_terminal_size
from typing import Annotated, Any, Literal

from typer import Option

from editcli.cli import options
from editcli.cli.console import Output
from editcli.cli.options import READS, RUNS_MODEL, Invocation, shared
from editcli.cli.terminal_heatmap import terminal_map
from editcli.files.conflicts import read_conflicts
from editcli.wording import counted

COLUMNS = ("memory", "context", "joint", "stable")
SHOWN = 10  # heads of each kind, on a terminal
STABLE = 0.9  # share of the resamples, from which on a head counts as stable


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    file: options.ConflictFileArgument,
    split: options.SplitOption = "locate",
    limit: options.RowLimitOption = None,
    corruption: options.CorruptionOption = "each",
    mlps: Annotated[
        Literal["recomputed", "frozen"],
        Option(help="recomputed: path patching; frozen: direct logit attribution."),
    ] = "recomputed",
    unit: options.UnitOption = "head",
    version: options.VersionOption = "HEAD",
    skip_bad: options.SkipBadOption = False,
    seed: options.SeedOption = 0,
) -> None:
    """Rank attention heads by exact path patching.

    There are memory heads and context heads. The memory score of a head is what the memory answer's
    logit loses when the head's output comes from a run with another subject. Its context score is
    what the passage's answer loses when the output comes from a run whose passage says something
    else. "stable" is the share of bootstrap resamples of the rows in which the head is among the
    ten best.

    \b
    Examples:
      editcli conflict locate conflicts.jsonl
      editcli conflict locate conflicts.jsonl --json > heads.json
      editcli conflict locate conflicts.jsonl --limit 100 --mlps frozen
    """
    out = call.out
    rows = read_conflicts(file, skip_bad=skip_bad).chosen(split, limit)
    store = call.open_store()
    chosen = store.version(version)

    from editcli.operations.conflicts.records import heads_record
    from editcli.operations.conflicts.session import ConflictSession
    from editcli.operations.session import Session
    from editors.conflicts.locate import LocateSettings, locate

    session = Session.open(call, store)
    conflicts = ConflictSession(session, session.state(chosen))
    settings = LocateSettings(corruption, mlps, unit, seed)
    with out.progress("locating", None, unit="rows") as bar:
        cases = conflicts.cases(rows, out, bar)
        started = time.monotonic()
        bar.stage("locating", None, "rows")
        with conflicts.attached() as edited:
            ranking = locate(edited, cases, settings, bar.advance)
    seconds = time.monotonic() - started
    heads = heads_record(ranking)
    counts = {"memory": ranking.memory.shape[-1], "context": ranking.context.shape[-1]}
    if call.json:
        out.record(
            {
                "version": chosen.id,
                "edits": conflicts.state.edits,
                "split": split,
                "rows": len(rows),
                "answered_from": counts,
                "collided": ranking.collided,
                "settings": asdict(settings),
                "seconds": round(seconds, 3),
                "heads": heads,
            }
        )
        return
    if call.quiet:
        out.finding(*(f"{head['layer']}.{head['head']}" for head in heads))
        return
    out.note(
        f"{counts['memory']} rows answered from memory, {counts['context']} from the passage, "
        f"{seconds:.1f} s"
    )
    if ranking.collided:
        out.warn(
            f"{counted(ranking.collided, 'row')} left out: both answers begin with the same token",
            "give rows whose two answers begin with different tokens",
        )
    _print(out, heads)


def _print(out: Output, heads: list[dict[str, Any]]) -> None:
    if out.terminal:
        for score in ("memory", "context"):
            out.text(f"{score} heads; a denser sign is a higher score:")
            out.text(*terminal_map(heads, score, get_terminal_size().columns))
    for score in ("memory", "context"):
        ranked = sorted((h for h in heads if h[score] > 0), key=lambda h: -h[score])[:SHOWN]
        stable = sum(h["stable"][score] >= STABLE for h in ranked)
        out.table(
            [
                {
                    f"{score} heads": f"{h['layer']}.{h['head']}",
                    **{key: f"{h[key]:+.3f}" for key in COLUMNS[:3]},
                    "stable": f"{h['stable'][score]:.2f}",
                }
                for h in ranked
            ],
            [f"{score} heads", *COLUMNS],
        )
        out.note(f"{stable} of these {len(ranked)} are among the ten best in 90 % of resamples")
