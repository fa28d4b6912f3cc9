"""`editcli rebase`: move a store to another base, or to another place of the same base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option

from editcli import exit_codes
from editcli.cli.completion import complete_model
from editcli.cli.console import Row
from editcli.cli.options import (
    RUNS_MODEL,
    WRITES,
    AdapterOption,
    DryRunOption,
    Invocation,
    TrustOption,
    shared,
)
from editcli.operations.scores.minima import (
    MEASURED_ON,
    MinGeneralizationOption,
    MinLocalityOption,
    MinReliabilityOption,
)
from editcli.wording import SHOW_ANSWERS, counted


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
    model: Annotated[
        str,
        Argument(
            metavar="MODEL",
            help="The new base; as `editcli init` takes it.",
            autocompletion=complete_model,
        ),
    ],
    layer: Annotated[
        int | None, Option(metavar="N", help="The block to edit; by default that of the store.")
    ] = None,
    calibration: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            envvar="EDITCLI_CALIBRATION",
            help="Phrasings to calibrate the scope signal on, as for `editcli init`.",
        ),
    ] = None,
    adapter: AdapterOption = None,
    trust_remote_code: TrustOption = False,
    min_reliability: MinReliabilityOption = None,
    min_generalization: MinGeneralizationOption = None,
    min_locality: MinLocalityOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Move the store to another base.

    Where MODEL is the base of the store in another place, only config.toml changes. Where it is
    another model, all facts in force are trained on it, with the method and the settings of the
    store, and scored on both bases. Either is one version, and if anything fails, or a score is
    below a minimum, nothing is changed.

    Earlier versions belong to the old base: `editcli checkout V` brings it back with them. Pruned
    heads cannot move. A base that lacks the block that is edited is refused; `--layer` names
    another.

    \b
    Examples:
      editcli rebase /models/smol
      editcli rebase ./my-model-v2 --min-reliability 0.95 -m "the new release"
      editcli rebase org/model@main --layer 20
    """
    from editcli.models.recorded.found_base import FoundBase
    from editcli.operations.editing.rebase import rebase, rebase_forecast

    out, store = call.out, call.open_store()
    given = dict(zip(MEASURED_ON, (min_reliability, min_generalization, min_locality), strict=True))
    usual = store.config.minima
    minima = {n: usual.get(n) if least is None else least for n, least in given.items()}
    trusted = trust_remote_code or bool(store.config.remote_code)
    found = FoundBase.of(model, adapter or "", trusts_code=trusted)
    if dry_run:
        done = rebase_forecast(store, found, layer=layer)
    else:
        done = rebase(call, store, found, layer=layer, calibration=calibration, minima=minima)
    if call.json or call.quiet:
        out.record(
            {
                "version": done.version and done.version.id,
                "parent": done.parent.id,
                "dry_run": dry_run,
                "base": done.config.base,
                "revision": done.config.revision,
                # That of other weights is known when they are loaded.
                **({} if dry_run else {"fingerprint": done.config.fingerprint}),
                "trained": done.trained,
                "failed": list(done.failed),
                "iterations": done.iterations,
                "scores_before": done.before,
                "scores_after": done.after,
            }
        )
    elif done.version is None:
        facts = f"and train {counted(done.trained, 'fact')}" if done.trained else "the same base"
        out.text(f"would move to {found.shown}, {facts}")
    elif done.version.id == done.parent.id:
        out.text(f"the base of this store is {found.shown} already")
    else:
        what = f"{counted(done.trained, 'fact')} trained on it" if done.after else "the same base"
        out.text(f"{done.version.id}: on {found.shown}, {what}")
        if done.after:
            out.table(_compared(done.before or {}, done.after), ("score", "before", "after", "n"))
    if done.failed:
        out.warn(f"trained, but not answered: {', '.join(done.failed)}", SHOW_ANSWERS)
        raise Exit(exit_codes.FAILED)


def _compared(before: Any, after: Any) -> list[Row]:
    """The scores before and after, a row each."""
    old, new = (kept.get("forms", {}).get("plain", {}) for kept in (before, after))
    return [
        {
            "score": name,
            "before": f"{old[name]:.3f}" if name in old else "",
            "after": f"{new[name]:.3f}",
            "n": new["n"][name],
        }
        for name in MEASURED_ON
        if name in new
    ]
