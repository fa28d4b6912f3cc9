"""`editcli conflict resolve`: prune heads so that one source wins, and save that as a version."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from editcli.cli.console import Output
from editcli.cli.context import author as acting
from editcli.cli.context import command_words
from editcli.cli.options import (
    AuthorOption,
    DeviceOption,
    DryRunOption,
    DtypeOption,
    JsonOption,
    MessageOption,
    QuietOption,
    SeedOption,
    SkipBadOption,
    StoreOption,
    VerboseOption,
)
from editcli.commands.conflict._options import CorruptionOption, FileArgument
from editcli.errors import BelowThreshold, UsageError
from editors import EditorError

if TYPE_CHECKING:
    from editcli.files.conflicts import ConflictFile
    from editcli.operations.conflict_session import Bench
    from editcli.operations.decoding_baselines import Rival
    from editcli.operations.prune_heads import Found
    from editors.conflicts.cases import Measured
    from editors.conflicts.resolve import Prefer


PRUNING = (
    *("heads", "ablation", "at", "scale", "corruption", "unit", "seed"),
    *("neutral", "force", "message", "author"),
)
"""What only pruning takes, and the version that it saves."""


def command(
    context: typer.Context,
    file: FileArgument,
    prefer: Annotated[
        Literal["context", "memory"],
        typer.Option("--prefer", help="Which source is to win.", show_default=False),
    ],
    heads: Annotated[
        str, typer.Option("--heads", metavar="auto|K", help="How many heads; auto: chosen on dev.")
    ] = "auto",
    by: Annotated[
        Literal["prune", "juice", "cad"],
        typer.Option(
            "--by", help="Prune heads; or measure a rival, which saves nothing (see below)."
        ),
    ] = "prune",
    ablation: Annotated[
        Literal["zero", "mean"],
        typer.Option("--ablation", help="What stands in the place of a pruned head's output."),
    ] = "zero",
    at: Annotated[
        Literal["all", "end"],
        typer.Option("--at", help="At all positions, or from the end of the prompt on."),
    ] = "all",
    scale: Annotated[
        float, typer.Option("--scale", metavar="X", help="Scale heads by X instead of pruning.")
    ] = 0.0,
    corruption: CorruptionOption = "each",
    unit: Annotated[
        Literal["head", "group"],
        typer.Option("--unit", help="Query heads, or those of a key-value head together."),
    ] = "head",
    neutral: Annotated[
        str | None,
        typer.Option(
            "--neutral", metavar="FILE", help="Held-out plain text for the loss; else our own."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Save although a check of locality lost too much.")
    ] = False,
    dry_run: DryRunOption = False,
    skip_bad: SkipBadOption = False,
    seed: SeedOption = 0,
    message: MessageOption = "",
    author: AuthorOption = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Prune memory heads to prefer the context, context heads to prefer memory; save a version.

    Heads are ranked on the split "locate" (with the edits in force attached), their number is
    chosen on "dev" with a penalty on what else suffers, and "test" is used once. Where a check of
    locality loses more than its gate, nothing is saved and the exit code is 3, unless --force.
    `editcli undo --heads` and `editcli checkout` take it back.

    --by cad (contrastive decoding) and --by juice (heads scaled in two runs) measure what decoding
    with a second pass reaches on the same rows; they take no option of pruning and leave no
    version.

    \b
    Examples:
      editcli conflict resolve conflicts.jsonl --prefer memory
      editcli conflict resolve conflicts.jsonl --prefer context --heads 4 --force
      editcli conflict resolve conflicts.jsonl --prefer context --by cad --json
    """
    from editcli.files.conflicts import read_conflicts
    from editcli.operations import prune_heads as resolve
    from editcli.operations.conflict_session import Bench, neutral_texts
    from editcli.operations.session import Workspace
    from editors.conflicts.locate import LocateSettings
    from editors.conflicts.resolve import PruneSettings

    out = Output(json_mode=json, quiet=quiet, verbose=verbose)
    if by != "prune":
        _refuse_given(context, by)
    count = _count(heads)
    if not math.isfinite(scale):
        raise UsageError(f"--scale takes a number, not {scale}", "`--scale 0.5`")
    if scale > 0 and ablation == "mean":
        out.debug(f"heads are scaled by {scale} towards their mean")
    found = read_conflicts(file, skip_bad=skip_bad)
    found.require_splits()
    texts = neutral_texts(neutral)
    workspace = Workspace.open(store, device=device, dtype=dtype, verbose=verbose)
    parent = workspace.store.head()
    bench = Bench(workspace, workspace.state(parent)).unpruned()
    if by != "prune":  # nothing is written
        _print_rival(out, _rival(by, bench, found, prefer, out), prefer)
        return
    with out.progress("resolving", None, unit="stages") as bar:
        result = resolve.find(
            workspace,
            bench,
            found,
            prefer,
            LocateSettings(corruption, "recomputed", unit, seed),
            PruneSettings(count, at, ablation, scale),
            texts,
            out,
            bar.describe,
        )
    record = {"version": None, "parent": parent.id, "prefer": prefer, "by": by}
    refused = bool(result.refused) and not force
    if not refused and not dry_run:
        state = replace(bench.state, resolution=resolve.resolution(bench, result, prefer))
        # Measuring takes minutes and keeps nobody out; what was measured holds for `parent` alone.
        with workspace.store.writing(command_words()) as transaction:
            if (now := workspace.store.head().id) != parent.id:
                raise EditorError(
                    f"nothing is saved: heads were ranked in {parent.id}, and the store is at "
                    f"{now} by now",
                    "run the same command again",
                )
            version = workspace.publish(
                transaction,
                "resolve",
                state,
                author=acting(author),
                message=message,
                extra={"prefer": prefer, **result.to_dict(), "forced": bool(result.refused)},
            )
            record["version"] = version.id
    if json or quiet:
        out.record({**record, **result.to_dict(), "report": dict(result.report)})
    else:
        _print(out, record, result)
    if refused:
        lost = ", ".join(f"{name} lost {result.lost[name]:.3f}" for name in result.refused)
        raise BelowThreshold(
            f"nothing is saved: beyond the gates of locality: {lost}",
            "fewer heads (`--heads K`), `--at end`, `--ablation mean` or `--scale 0.5` cost less; "
            "`--force` saves it all the same",
        )


def _refuse_given(context: typer.Context, by: str) -> None:
    """A rival is measured as it is: an option of pruning would be taken for one of its own."""
    for name in PRUNING:
        source = context.get_parameter_source(name)
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


def _rival(
    by: Literal["juice", "cad"], bench: Bench, file: ConflictFile, prefer: Prefer, out: Output
) -> Rival:
    from editcli.operations.decoding_baselines import rival

    with out.progress("asking", None, unit="stages") as bar:
        bar.describe("memory's answers")
        locating, dev, test = bench.splits(file, out)
        bar.describe(f"tuning {by}")
        return rival(by, bench, locating, dev, test, prefer)


def _rates(measured: Measured) -> dict[str, str]:
    rates = measured.conflicting.rates
    return {
        "memory": f"{rates.memory.value:.3f}",
        "context": f"{rates.context.value:.3f}",
        "other": f"{rates.other.value:.3f}",
        "n": str(rates.memory.n),
    }


def _print_rival(out: Output, rival: Rival, prefer: str) -> None:
    if out.json_mode or out.quiet:
        out.record({"version": None, "prefer": prefer, **rival.to_dict()})
        return
    out.text(", ".join(f"{key} {value}" for key, value in rival.settings.items()))
    out.table(
        [
            {"test split": "plain decoding", **_rates(rival.before)},
            {"test split": rival.settings["by"], **_rates(rival.after)},
        ],
        ["test split", "memory", "context", "other", "n"],
    )
    out.note(f"decoding takes {rival.cost:.2f} times as long; no version is made of it")


def _print(out: Output, record: dict[str, Any], found: Found) -> None:
    from editors.conflicts.locality import GATES

    saved = record["version"] or "not saved"
    heads = ", ".join(f"{head.layer}.{head.head}" for head in found.mask.heads)
    count = "1 head" if len(found.mask.heads) == 1 else f"{len(found.mask.heads)} heads"
    out.text(f"{saved}: prefer {record['prefer']}, {count} pruned: {heads}")
    out.table(
        [
            {"test split": "before", **_rates(found.before)},
            {"test split": "after", **_rates(found.after)},
        ],
        ["test split", "memory", "context", "other", "n"],
    )
    out.table(
        [
            {
                "locality": name,
                "before": f"{found.scores['before'][name]:.3f}",
                "after": f"{found.scores['after'][name]:.3f}",
                "lost": f"{lost:+.3f}",
                "gate": f"{GATES[name]:.2f}",
                "": "BEYOND" if name in found.refused else "",
            }
            for name, lost in found.lost.items()
        ],
        ["locality", "before", "after", "lost", "gate", ""],
    )
    following = found.report["next_token"]
    moved = "undefined" if following["kl"] is None else f"{following['kl']:.4f} nat"
    out.text(
        f"next tokens on neutral text: KL {moved}, "
        f"{following['same_top']:.1%} keep the likeliest one"
    )
    if following["alarm"]:
        out.warn("fewer than 98 % of neutral prompts keep their likeliest next token")
    out.text(
        "taken off again, logits are the same bit for bit"
        if found.report["reversible"]
        else "TAKEN OFF AGAIN, LOGITS ARE NOT THE SAME"
    )
    if not record["version"]:
        return
    out.hint("`editcli undo --heads` takes it back")
