"""`editcli conflict resolve`: prune heads so that one source wins, and save that as a version."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Exit, Option

from editcli import exit_codes
from editcli.cli import options
from editcli.cli.console import Output
from editcli.cli.options import RUNS_MODEL, WRITES, Invocation, shared
from editcli.commands.conflict.measure import rate_cells
from editcli.errors import BelowThreshold, UsageError
from editcli.files.conflicts import read_conflicts
from editcli.files.texts import read_texts
from editcli.wording import counted
from editors import EditorError
from editors.heads.pruning import HeadPruning, Source

if TYPE_CHECKING:
    from editcli.operations.conflicts.decoding_baselines import Baseline
    from editcli.operations.conflicts.prune_heads import PruningTest
    from editcli.operations.conflicts.session import ConflictSession
    from editcli.store.records import Version

ONLY_PRUNING = (
    *("heads", "ablation", "at", "scale", "corruption", "unit", "seed"),
    *("neutral", "force", "message", "author"),
)
"""The options of pruning, which a decoding baseline does not take."""


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
    typer_context: typer.Context,
    file: options.ConflictFileArgument,
    prefer: Annotated[
        Literal["context", "memory"], Option(help="Which source should win.", show_default=False)
    ],
    heads: Annotated[
        str, Option(metavar="auto|K", help="How many heads; auto: chosen on the dev split.")
    ] = "auto",
    by: Annotated[
        Literal["prune", "juice", "cad"],
        Option(help="Prune heads, or measure a decoding baseline (see above)."),
    ] = "prune",
    ablation: Annotated[
        Literal["zero", "mean"],
        Option(help="What replaces the output of a pruned head: zero, or its mean."),
    ] = "zero",
    at: Annotated[
        Literal["all", "end"],
        Option(help="Prune at all positions, or only from the end of the prompt on."),
    ] = "all",
    scale: Annotated[float, Option(metavar="X", help="Scale heads by X instead of pruning.")] = 0.0,
    corruption: options.CorruptionOption = "each",
    unit: options.UnitOption = "head",
    neutral: Annotated[
        str | None,
        Option(
            metavar="FILE",
            help="Held-out plain text that must not suffer, instead of the texts that ship with "
            "editcli.",
        ),
    ] = None,
    force: Annotated[
        bool, Option("--force", help="Save even if a check of locality loses more than its limit.")
    ] = False,
    dry_run: options.DryRunOption = False,
    skip_bad: options.SkipBadOption = False,
    seed: options.SeedOption = 0,
) -> None:
    """Prune attention heads so that one source wins.

    To prefer the context, memory heads are pruned; to prefer memory, context heads. Heads are
    ranked on the split "locate", with the edits in force attached. Their number is chosen on "dev",
    with a penalty for what the checks of locality lose. Both take samples of large splits. The
    result is measured once, on all of "test". When a check of locality loses more than its limit,
    nothing is saved and the exit code is 3, unless --force is given. `editcli undo --heads` and
    `editcli checkout` take the pruning back.

    --by cad (contrastive decoding) and --by juice (heads scaled in two runs) measure what decoding
    with a second pass reaches on the same rows. They take no option of pruning and save nothing.

    \b
    Examples:
      editcli conflict resolve conflicts.jsonl --prefer memory
      editcli conflict resolve conflicts.jsonl --prefer context --heads 4 --force
      editcli conflict resolve conflicts.jsonl --prefer context --by cad --json
    """
    out = call.out
    if by != "prune":
        _refuse_pruning_options(typer_context, by)
    count = _count(heads)
    if not math.isfinite(scale):
        raise UsageError(f"--scale takes a number, not {scale}", "`--scale 0.5`")
    if scale > 0 and ablation == "mean":
        out.debug(f"heads are scaled by {scale} towards their mean")
    conflict_file = read_conflicts(file, skip_bad=skip_bad)
    conflict_file.require_splits()
    texts = read_texts(neutral)

    from editcli.operations.conflicts.decoding_baselines import measure_baseline
    from editcli.operations.conflicts.prune_heads import find_heads
    from editcli.operations.conflicts.session import ConflictSession
    from editcli.operations.session import Session
    from editors.conflicts.locate import LocateSettings
    from editors.conflicts.resolve import PruneSettings

    session = Session.open(call)
    parent = session.store.head()
    conflicts = ConflictSession(session, session.state(parent)).without_pruning()
    with out.progress("resolving", None, unit="prompts") as bar:
        if by != "prune":  # nothing is written
            locate, dev, test = conflicts.splits(conflict_file, out, bar)
            bar.stage(f"tuning {by}", None, "settings")
            baseline = measure_baseline(by, conflicts, locate, dev, test, prefer, bar)
            _print_baseline(out, baseline, prefer)
            return
        result = find_heads(
            conflicts,
            conflict_file,
            prefer,
            LocateSettings(corruption, "recomputed", unit, seed),
            PruneSettings(count, at, ablation, scale),
            texts,
            out,
            bar,
        )
    refused = bool(result.refused) and not force
    version = None if refused or dry_run else _save(call, conflicts, parent, result, prefer)
    record = {
        "version": version and version.id,
        "parent": parent.id,
        "dry_run": dry_run,
        "prefer": prefer,
        "by": by,
        "missed": [f"{name} lost {result.lost[name]:.3f}" for name in result.refused],
        **result.to_dict(),
    }
    if call.json or call.quiet:
        checks = record.pop("locality")
        about = {"locality_checks": checks, "report": dict(result.report)}
        out.record({**_resolved(record), **about})
    else:
        _print(out, record, result)
    if refused and call.json:  # the record says it
        raise Exit(exit_codes.BELOW_THRESHOLD)
    if refused:
        raise BelowThreshold(
            f"nothing is saved: locality lost more than its limits: {', '.join(record['missed'])}",
            "fewer heads (`--heads K`), `--at end`, `--ablation mean` or `--scale 0.5` cost less; "
            "`--force` saves it anyway",
        )


def _save(
    call: Invocation,
    conflicts: ConflictSession,
    parent: Version,
    result: PruningTest,
    prefer: Source,
) -> Version:
    session = conflicts.session
    report = {**result.report, **result.to_dict(), "by": "prune"}
    pruning = HeadPruning(prefer, result.mask, conflicts.state.edits, report)
    # Measuring takes minutes and does not lock the store; its result holds for `parent` alone.
    with call.writing(session.store) as transaction:
        now = session.store.head().id
        if now != parent.id:
            raise EditorError(
                f"nothing is saved: heads were ranked in {parent.id}, "
                f"but the store is now at {now}",
                "run the same command again",
            )
        return session.publish(
            transaction,
            "resolve",
            conflicts.state,
            replace(conflicts.state, pruning=pruning),
            who=call.who,
            message=call.message,
            extra={"prefer": prefer, **result.to_dict(), "forced": bool(result.refused)},
        )


def _refuse_pruning_options(typer_context: typer.Context, by: str) -> None:
    """Raise UsageError for an option of pruning that was given for a decoding baseline."""
    for name in ONLY_PRUNING:
        source = typer_context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE":
            raise UsageError(
                f"--{name} is an option of pruning, and --by {by} prunes no heads",
                f"leave out --{name}, or use `--by prune`",
            )


def _count(heads: str) -> int | None:
    if heads == "auto":
        return None
    if not heads.isdecimal() or int(heads) < 1:
        raise UsageError(f"--heads takes auto or a number above 0, not {heads!r}", "`--heads auto`")
    return int(heads)


def _resolved(record: dict[str, Any]) -> dict[str, Any]:
    """A record for programs, with what was measured on the test split in one place."""
    others = {key: value for key, value in record.items() if key not in ("before", "after")}
    return {**others, "resolved": {when: record[when] for when in ("before", "after")}}


# --- for people -----------------------------------------------------------------------------------


def _print_test(out: Output, rows: dict[str, dict[str, Any]]) -> None:
    out.table({"test split": name, **rate_cells(record)} for name, record in rows.items())


def _print_baseline(out: Output, baseline: Baseline, prefer: str) -> None:
    record = baseline.to_dict()
    if out.json_mode or out.quiet:
        about = {"version": None, "prefer": prefer, "by": baseline.settings["by"]}
        out.record({**about, **_resolved(record)})
        return
    out.text(", ".join(f"{key} {value}" for key, value in baseline.settings.items()))
    by = baseline.settings["by"]
    _print_test(out, {"plain decoding": record["before"], by: record["after"]})
    out.note(f"decoding takes {baseline.cost:.2f} times as long; nothing is saved")


def _print(out: Output, record: dict[str, Any], result: PruningTest) -> None:
    heads = ", ".join(f"{head.layer}.{head.head}" for head in result.mask.heads)
    out.text(
        f"{record['version'] or 'not saved'}: prefer {record['prefer']}, "
        f"{counted(len(result.mask.heads), 'head')} pruned: {heads}"
    )
    _print_test(out, {when: record[when] for when in ("before", "after")})
    out.table(
        {
            "locality": name,
            **{when: f"{scores[name]:.3f}" for when, scores in result.scores.items()},
            "lost": f"{lost:+.3f}",
            "limit": f"{result.limits[name]:.2f}",
            "": "BEYOND" if name in result.refused else "",
        }
        for name, lost in result.lost.items()
    )
    next_token = result.report["next_token"]
    kl = "undefined" if next_token["kl"] is None else f"{next_token['kl']:.4f} nat"
    out.text(
        f"next tokens on neutral text: KL {kl}, {next_token['same_top']:.1%} keep the likeliest one"
    )
    if next_token["alarm"]:
        out.warn("fewer than 98 % of neutral prompts keep their likeliest next token")
    out.text(
        "with the heads put back, logits are the same bit for bit"
        if result.report["reversible"]
        else "WITH THE HEADS PUT BACK, LOGITS ARE NOT THE SAME"
    )
    if record["version"]:
        out.hint("`editcli undo --heads` takes the pruning back")
