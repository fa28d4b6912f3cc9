"""`editcli diff`: what two versions believe differently."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from typer import Argument

from editcli.cli.completion import complete_version
from editcli.cli.options import READS, VERSION_HELP, Invocation, shared
from editcli.store.edits import pruning_of
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.store.tables.contents import Entry
from editcli.wording import PURGED, counted
from editors.heads.pruning import HeadPruning

COLUMNS = ("change", "fact", "prompt", "old", "new")


@shared(*READS)
def command(
    call: Invocation,
    before: Annotated[
        str, Argument(metavar="V", help=VERSION_HELP, autocompletion=complete_version)
    ] = "HEAD~1",
    after: Annotated[
        str, Argument(metavar="W", help="Another version.", autocompletion=complete_version)
    ] = "HEAD",
) -> None:
    """List how the facts of two versions differ, and their pruned heads.

    A fact is added, removed, or changed: the same prompt has another answer. Versions of different
    branches can be compared, too.

    \b
    Examples:
      editcli diff
      editcli diff v0003
      editcli diff release HEAD --json
    """
    store = call.open_store()
    one, other = store.version(before), store.version(after)
    rows = [*_facts(store, one, other), *_heads(store, one, other)]
    if not rows and not call.json:
        call.out.note(f"{one.id} and {other.id} believe the same")
    call.out.table(rows, COLUMNS)


def _facts(store: Store, one: Version, other: Version) -> Iterator[dict[str, Any]]:
    """A row for each prompt that is answered differently, in the order of editing."""
    gone, come = store.diff(one, other)
    old = {_prompt(entry): entry for entry in gone}
    new = {_prompt(entry): entry for entry in come}
    for prompt, entry in {**old, **new}.items():
        before, after = old.get(prompt), new.get(prompt)
        kind = "changed" if before and after else "added" if after else "removed"
        fact = entry.fact
        yield {
            "change": kind,
            "fact": fact.id if fact else None,
            "prompt": fact.prompt if fact else PURGED,
            "old": _target(before),
            "new": _target(after),
        }


def _prompt(entry: Entry) -> str:
    """The prompt; of a fact that was purged, what no other fact has."""
    return entry.fact.prompt if entry.fact else f"{PURGED} {entry.text}"


def _target(entry: Entry | None) -> str | None:
    if entry is None:
        return None
    return entry.fact.target if entry.fact else PURGED


def _heads(store: Store, one: Version, other: Version) -> Iterator[dict[str, Any]]:
    before, after = (_pruned(pruning_of(store, version)) for version in (one, other))
    if before != after:
        yield {"change": "heads", "fact": None, "prompt": None, "old": before, "new": after}


def _pruned(pruning: HeadPruning | None) -> str | None:
    if pruning is None:
        return None
    return f"{counted(len(pruning.mask.heads), 'head')} pruned to prefer {pruning.prefer}"
