"""`editcli conflict resolve`: prune heads so that one source wins, and save that as a version."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editcli.cli.console import Output
from editcli.cli.invocation import Invocation
from editcli.cli.options import (
    RUNS_MODEL,
    WRITES,
    DryRunOption,
    SeedOption,
    SkipBadOption,
    shared,
)
from editcli.commands.conflict.options import CorruptionOption, FileArgument, UnitOption
from editcli.errors import BelowThreshold, UsageError
from editcli.files.conflicts import read_conflicts
from editcli.files.texts import read_texts
from editcli.wording import counted
from editors import EditorError
from editors.heads.pruning import HeadPruning, Source

if TYPE_CHECKING:
    from editcli.operations.conflict_session import ConflictSession
    from editcli.operations.decoding_baselines import Baseline
    from editcli.operations.prune_heads import PruningTest
    from editcli.store.records import Version
    from editors.conflicts.measure import ConflictResults

ONLY_PRUNING = (
    *("heads", "ablation", "at", "scale", "corruption", "unit", "seed"),
    *("neutral", "force", "message", "author"),
)
"""The options of pruning, which a decoding baseline does not take."""


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
    typer_context: typer.Context,
    file: FileArgument,
    prefer: Annotated[
        Literal["context", "memory"],
        typer.Option("--prefer", help="Which source should win.", show_default=False),
    ],
    heads: Annotated[
        str,
        typer.Option(
            "--heads", metavar="auto|K", help="How many heads; auto: chosen on the dev split."
        ),
    ] = "auto",
    by: Annotated[
        Literal["prune", "juice", "cad"],
        typer.Option("--by", help="Prune heads, or measure a decoding baseline (see above)."),
    ] = "prune",
    ablation: Annotated[
        Literal["zero", "mean"],
        typer.Option(
            "--ablation", help="What replaces the output of a pruned head: zero, or its mean."
        ),
    ] = "zero",
    at: Annotated[
        Literal["all", "end"],
        typer.Option("--at", help="Prune at all positions, or only from the end of the prompt on."),
    ] = "all",
    scale: Annotated[
        float, typer.Option("--scale", metavar="X", help="Scale heads by X instead of pruning.")
    ] = 0.0,
    corruption: CorruptionOption = "each",
    unit: UnitOption = "head",
    neutral: Annotated[
        str | None,
        typer.Option(
            "--neutral",
            metavar="FILE",
            help="Held-out plain text that must not suffer, instead of the texts that ship with "
            "editcli.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Save even if a check of locality loses more than its limit."),
    ] = False,
    dry_run: DryRunOption = False,
    skip_bad: SkipBadOption = False,
    seed: SeedOption = 0,
) -> None:
    """Prune attention heads so that one source wins.

    To prefer the context, memory heads are pruned; to prefer memory, context heads. Heads are
    ranked on the split "locate", with the edits in force attached. Their number is chosen on "dev",
    with a penalty for what the checks of locality lose. The result is measured once, on "test".
    When a check of locality loses more than its limit, nothing is saved and the exit code is 3,
    unless --force is given. `editcli undo --heads` and `editcli checkout` take the pruning back.

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

    from editcli.operations.conflict_session import ConflictSession
    from editcli.operations.decoding_baselines import measure_baseline
    from editcli.operations.prune_heads import find_heads
    from editcli.operations.session import Session
    from editors.conflicts.locate import LocateSettings
    from editors.conflicts.resolve import PruneSettings

    session = Session.open(call)
    parent = session.store.head()
    conflicts = ConflictSession(session, session.state(parent)).without_pruning()
    with out.progress("resolving", None, unit="stages") as bar:
        if by != "prune":  # nothing is written
            bar.describe("memory's answers")
            locate, dev, test = conflicts.splits(conflict_file, out)
            bar.describe(f"tuning {by}")
            baseline = measure_baseline(by, conflicts, locate, dev, test, prefer)
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
            bar.describe,
        )
    refused = bool(result.refused) and not force
    version = None if refused or dry_run else _save(call, conflicts, parent, result, prefer)
    record = {
        "version": version.id if version else None,
        "parent": parent.id,
        "prefer": prefer,
        "by": by,
    }
    if call.json or call.quiet:
        out.record({**record, **result.to_dict(), "report": dict(result.report)})
    else:
        _print(out, record, result)
    if refused:
        lost = ", ".join(f"{name} lost {result.lost[name]:.3f}" for name in result.refused)
        raise BelowThreshold(
            f"nothing is saved: locality lost more than its limits: {lost}",
            "fewer heads (`--heads K`), `--at end`, `--ablation mean` or `--scale 0.5` cost less; "
            "`--force` saves it all the same",
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
    with session.store.writing(call.command) as transaction:
        if (now := session.store.head().id) != parent.id:
            raise EditorError(
                f"nothing is saved: heads were ranked in {parent.id}, and the store is at {now} by "
                "now",
                "run the same command again",
            )
        return session.publish(
            transaction,
            "resolve",
            replace(conflicts.state, pruning=pruning),
            author=call.who,
            message=call.message,
            extra={"prefer": prefer, **result.to_dict(), "forced": bool(result.refused)},
        )


def _refuse_pruning_options(typer_context: typer.Context, by: str) -> None:
    """Raise UsageError for an option of pruning that was given for a decoding baseline."""
    for name in ONLY_PRUNING:
        source = typer_context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"--{name} is an option of pruning, and --by {by} prunes no heads",
                f"leave out --{name}, or take `--by prune`",
            )


def _count(heads: str) -> int | None:
    if heads == "auto":
        return None
    if not heads.isdecimal() or int(heads) < 1:
        raise UsageError(f"--heads takes auto or a number above 0, not {heads!r}", "`--heads auto`")
    return int(heads)


# --- for people -----------------------------------------------------------------------------------


def _rates(results: ConflictResults) -> dict[str, str]:
    rates = results.conflicting.rates
    return {
        "memory": f"{rates.memory.value:.3f}",
        "context": f"{rates.context.value:.3f}",
        "other": f"{rates.other.value:.3f}",
        "n": str(rates.memory.n),
    }


def _print_test(out: Output, rows: dict[str, ConflictResults]) -> None:
    out.table(
        [{"test split": name, **_rates(results)} for name, results in rows.items()],
        ["test split", "memory", "context", "other", "n"],
    )


def _print_baseline(out: Output, baseline: Baseline, prefer: str) -> None:
    if out.json_mode or out.quiet:
        out.record({"version": None, "prefer": prefer, **baseline.to_dict()})
        return
    out.text(", ".join(f"{key} {value}" for key, value in baseline.settings.items()))
    by = str(baseline.settings["by"])
    _print_test(out, {"plain decoding": baseline.before, by: baseline.after})
    out.note(f"decoding takes {baseline.cost:.2f} times as long; nothing is saved")


def _print(out: Output, record: dict[str, Any], result: PruningTest) -> None:
    heads = ", ".join(f"{head.layer}.{head.head}" for head in result.mask.heads)
    out.text(
        f"{record['version'] or 'not saved'}: prefer {record['prefer']}, "
        f"{counted(len(result.mask.heads), 'head')} pruned: {heads}"
    )
    _print_test(out, {"before": result.before, "after": result.after})
    out.table(
        [
            {
                "locality": name,
                "before": f"{result.scores['before'][name]:.3f}",
                "after": f"{result.scores['after'][name]:.3f}",
                "lost": f"{lost:+.3f}",
                "limit": f"{result.limits[name]:.2f}",
                "": "BEYOND" if name in result.refused else "",
            }
            for name, lost in result.lost.items()
        ],
        ["locality", "before", "after", "lost", "limit", ""],
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
