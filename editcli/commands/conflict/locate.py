"""`editcli conflict locate`: which heads carry memory, and which the passage."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import typer

from editcli.cli.console import Output
from editcli.cli.context import open_store
from editcli.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    QuietOption,
    SeedOption,
    SkipBadOption,
    StoreOption,
    VerboseOption,
    VersionOption,
)
from editcli.cli.terminal_heatmap import terminal_map
from editcli.commands.conflict._options import CorruptionOption, FileArgument, LimitOption

SHOWN = 10
STABLE = 0.9


def command(
    file: FileArgument,
    split: Annotated[
        Literal["all", "locate", "dev", "test"], typer.Option("--split", help="Which rows.")
    ] = "locate",
    limit: LimitOption = None,
    corruption: CorruptionOption = "each",
    mlps: Annotated[
        Literal["recomputed", "frozen"],
        typer.Option("--mlps", help="Path patching, or direct logit attribution."),
    ] = "recomputed",
    unit: Annotated[
        Literal["head", "group"],
        typer.Option("--unit", help="Query heads, or those of a key-value head together."),
    ] = "head",
    version: VersionOption = "HEAD",
    skip_bad: SkipBadOption = False,
    seed: SeedOption = 0,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Rank attention heads by exact path patching: memory heads, context heads, and both together.

    A head's memory score is what the memory answer's logit loses when the head's output comes from
    a run with another subject; its context score, what the passage's answer loses when it comes
    from a run whose passage says something else. "stable" is the share of bootstrap resamples of
    the rows in which the head is among the ten best.

    \b
    Examples:
      editcli conflict locate conflicts.jsonl
      editcli conflict locate conflicts.jsonl --json > heads.json
      editcli conflict locate conflicts.jsonl --limit 100 --mlps frozen
    """
    from editcli.files.conflicts import read_conflicts
    from editcli.operations.conflict_session import Bench, heads_record
    from editcli.operations.session import Workspace
    from editors.conflicts.locate import LocateSettings, locate

    out = Output(json_mode=json, quiet=quiet, verbose=verbose)
    found = read_conflicts(file, skip_bad=skip_bad)
    rows = found.chosen(split, limit)
    opened = open_store(store)
    chosen = opened.version(version)
    workspace = Workspace.open(opened, device=device, dtype=dtype, verbose=verbose)
    bench = Bench(workspace, workspace.state(chosen))
    settings = LocateSettings(corruption, mlps, unit, seed)
    asked = bench.ask(rows, out)
    started = time.monotonic()
    with bench.attached() as edited, out.progress("locating", None, unit="rows") as bar:
        ranking = locate(workspace.base, asked, settings, edited, bar.advance)
    seconds = time.monotonic() - started
    heads = heads_record(ranking)
    counts = {
        "memory": ranking.memory.shape[-1],
        "context": ranking.context.shape[-1],
        "collided": ranking.collided,
    }
    if json:
        out.record(
            {
                "version": chosen.id,
                "edits": bench.state.edits,
                "rows": counts,
                "settings": {
                    "corruption": corruption,
                    "mlps": mlps,
                    "unit": unit,
                    "seed": seed,
                    "split": split,
                },
                "seconds": round(seconds, 3),
                "heads": heads,
            }
        )
        return
    if quiet:
        for head in heads:
            out.finding(f"{head['layer']}.{head['head']}")
        return
    out.note(
        f"{counts['memory']} rows answered from memory, {counts['context']} from the passage, "
        f"{seconds:.1f} s"
    )
    if ranking.collided:
        out.warn(
            f"{ranking.collided} rows left out: both answers begin with the same token",
            "answers that begin differently can be told apart by their first tokens",
        )
    _print(out, heads)


def _print(out: Output, heads: list[dict[str, Any]]) -> None:
    if out.terminal:
        for score in ("memory", "context"):
            out.text(f"{score} heads, the darker the more:")
            for line in terminal_map(heads, score):
                out.text(line)
    for score in ("memory", "context"):
        ranked = sorted((h for h in heads if h[score] > 0), key=lambda h: -h[score])[:SHOWN]
        kept = sum(h["stable"][score] >= STABLE for h in ranked)
        out.table(
            [
                {
                    f"{score} heads": f"{h['layer']}.{h['head']}",
                    "memory": f"{h['memory']:+.3f}",
                    "context": f"{h['context']:+.3f}",
                    "joint": f"{h['joint']:+.3f}",
                    "stable": f"{h['stable'][score]:.2f}",
                }
                for h in ranked
            ],
            [f"{score} heads", "memory", "context", "joint", "stable"],
        )
        out.note(f"{kept} of these {len(ranked)} are among the ten best in 90 % of resamples")
