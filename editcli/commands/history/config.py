"""`editcli config`: what all versions of a store have in common, and changing what may change."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer
from typer import Argument

from editcli.cli.options import READS, RUNS_MODEL, WRITES, DryRunOption, Invocation, shared
from editcli.errors import UsageError
from editcli.models.libraries import tools
from editcli.operations.scores.minima import MEASURED_ON
from editcli.settings import current_folder
from editcli.store.changes import Changes
from editcli.store.configuration import leaves
from editcli.store.configuration import restore as restore_config
from editcli.store.files.layout import find_store
from editcli.store.records import StoreConfig
from editcli.store.store import Store
from editcli.wording import listed

MINIMA = {f"minima.{name}": name for name in MEASURED_ON}
MAY_CHANGE = ("base", *MINIMA)
NONE = "none"  # takes a minimum away

group = typer.Typer(invoke_without_command=True)


@group.callback()
@shared(*READS)
def config(call: Invocation, typer_context: typer.Context) -> None:
    """List what all versions of a store have in common, or change it.

    Only the keys that are marked may change: where the base is, and the scores that new edits have
    to reach to become HEAD. All others are part of what the versions are; `editcli rebase` moves a
    store to another base. Each change is a version in the history. While config.toml differs from
    what is recorded, as after a change by hand, no command writes to the store.

    \b
    Examples:
      editcli config
      editcli config set base /models/smol
      editcli config set minima.reliability 0.95
      editcli config restore
    """
    if typer_context.invoked_subcommand is not None:
        return
    values = _values(call.open_store().config)
    values |= {key: None for key in MINIMA if key not in values}
    call.out.table(
        (
            {"key": key, "value": _shown(value), "may_change": key in MAY_CHANGE}
            if call.json
            else {"key": key, "value": _shown(value) or "", "may change": _marked(key)}
            for key, value in values.items()
        ),
        ("key", "value", "may change"),
    )


@group.command("set")
@shared(*WRITES, *RUNS_MODEL)
def set_(
    call: Invocation,
    key: Annotated[str, Argument(metavar="KEY", help=f"One of {', '.join(MAY_CHANGE)}.")],
    value: Annotated[
        str, Argument(metavar="VALUE", help=f"The new value; {NONE} takes a minimum away.")
    ],
    dry_run: DryRunOption = False,
) -> None:
    """Change a key that may change; a version in the history tells so.

    base takes another place of the same base, whose files are compared; `editcli rebase` takes
    another base. With a minimum, `edit` and `apply` keep a version that scores below it as
    rejected, and HEAD stays, unless they are given another minimum.

    \b
    Examples:
      editcli config set base /models/smol
      editcli config set minima.locality 0.9 -m "from now on"
      editcli config set minima.locality none
    """
    store = call.open_store()
    before = store.config
    if key not in MAY_CHANGE:
        why = "does not change" if key in _values(before) else "is no key of config.toml"
        raise UsageError(f"{key!r} {why}", f"these may change: {', '.join(MAY_CHANGE)}")
    after = _moved(call, before, value) if key == "base" else _with_minimum(before, key, value)
    made = None
    if after == before:
        made = store.head()
        if not call.json:
            call.out.note(f"{key} is so already")
    elif not dry_run:
        with call.writing(store) as transaction:
            made = transaction.publish(
                "config",
                Changes(),
                config=after.to_toml(),
                who=call.who,
                message=call.message or f"{key} = {value}",
                tools=tools(),
            )
    changed = None if value == NONE else value
    record: dict[str, object] = {"version": made and made.id, "key": key, "value": changed}
    call.print_change(record, dry_run=dry_run)


@group.command()
@shared(*READS)
def restore(call: Invocation) -> None:
    """Write config.toml as it is recorded, after it was changed by hand.

    \b
    Examples:
      editcli config restore
      editcli config restore --store beliefs/.editcli
    """
    path = find_store(call.store, current_folder(), os.environ)
    restore_config(path, call.command)
    store = Store.open(path)
    call.out.record({"store": str(store.path), "base": store.config.base})


def _moved(call: Invocation, before: StoreConfig, model: str) -> StoreConfig:
    """The configuration with the base in another place. Raises UsageError for another base."""
    from editcli.models.libraries import use_threads
    from editcli.models.recorded.found_base import FoundBase
    from editcli.models.recorded.store_base import load_store_base

    use_threads(call.threads)
    found = FoundBase.of(model, before.adapter, trusts_code=bool(before.remote_code))
    if problems := found.problems(before):
        raise UsageError(
            f"{model} is not the base of this store: {listed(problems, 4)}",
            f"`editcli rebase {model}` moves the store to another base",
        )
    after = found.in_place_of(before)
    if not before.files:  # releases up to 0.2 record only a fingerprint
        load_store_base(
            after, device=call.device, dtype=call.dtype, verbose=call.verbose, tell=call.tell
        )
    return after


def _with_minimum(before: StoreConfig, key: str, value: str) -> StoreConfig:
    minima = {name: least for name, least in before.minima.items() if name != MINIMA[key]}
    if value != NONE:
        try:
            least = float(value)
        except ValueError:
            least = -1.0
        if not 0 <= least <= 1:
            raise UsageError(f"{key}: {value!r} is not a number from 0 to 1", f"or {NONE!r}")
        minima[MINIMA[key]] = least
    return replace(before, minima={name: minima[name] for name in MEASURED_ON if name in minima})


def _values(config: StoreConfig) -> dict[str, Any]:
    """By their keys, the values that say something."""
    return {key: value for key, value in leaves(asdict(config)) if value != ""}


def _shown(value: Any) -> str | None:
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)


def _marked(key: str) -> str:
    return "yes" if key in MAY_CHANGE else ""
