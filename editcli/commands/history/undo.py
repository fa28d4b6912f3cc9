"""`editcli undo`: take edits back, as a new version."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Exit, Option

from editcli import exit_codes
from editcli.cli.completion import complete_fact_or_version
from editcli.cli.options import RUNS_MODEL, WRITES, DryRunOption, Invocation, shared
from editcli.errors import UnknownVersion, UsageError
from editcli.operations.editing.forecast import purge_forecast
from editcli.operations.editing.taking_back import TakenBack, purge, take_back, take_back_version
from editcli.store.records import NUMBER, Version
from editcli.store.store import Store
from editcli.wording import SHOW_ANSWERS, STALE_HEADS, counted


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
    what: Annotated[
        list[str] | None,
        Argument(
            metavar="FACT|V",
            help="Facts in force, each by its id or the start of its id; or one version.",
            autocompletion=complete_fact_or_version,
        ),
    ] = None,
    last: Annotated[
        bool, Option("--last", help="Take back what the newest version of HEAD did.")
    ] = False,
    heads: Annotated[
        bool, Option("--heads", help="Take back the pruning of heads, with or without facts.")
    ] = False,
    purged: Annotated[
        bool,
        Option(
            "--purge",
            help="Remove the facts from every version: their texts, messages that mention them, "
            "and all that was trained with them. It cannot be taken back.",
        ),
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Take edits back and save that as a new version.

    Prompts of these facts get the base model's answers again, and all others are answered as
    before. No model is loaded. Where the method undoes by retraining (`editcli methods` says
    which), the model is loaded, and the facts that stay are trained again.

    Of a version, all that it did to facts is taken back: those that it added are no longer in
    force, and those that it superseded or took back are in force again. They are trained again,
    unless the version is the newest. Either everything that is named is taken back, or nothing.

    --purge removes the edit, not what the base model knows. Versions that had such a fact stay in
    the history and cannot be used any more.

    \b
    Examples:
      editcli undo 721d9f70c0ae -m "it was a joke"
      editcli undo 721d 1f3a --dry-run
      editcli undo --last
      editcli undo v0007
      editcli undo --heads
      editcli undo 721d --purge
    """
    store = call.open_store()
    names = what or []
    version = _version(store, names, last=last)
    if (last or version) and (heads or purged or len(names) > 1 or (last and names)):
        raise UsageError("one version is taken back at a time, and by itself", "`editcli undo V`")
    if not (names or heads or last):
        raise UsageError("no fact was given", "`editcli undo FACT` or `editcli undo --last`")
    if purged and heads:
        raise UsageError("--purge takes facts and nothing else", "`editcli undo FACT --purge`")
    gone = None
    if version:
        result = take_back_version(call, store, version, dry_run=dry_run)
    elif purged:
        result, gone = purge_forecast(store, names) if dry_run else purge(call, store, names)
    else:
        result = take_back(call, store, names, heads=heads, dry_run=dry_run)
    parent = result.version.parent if result.version else store.head().id
    _print(call, parent, result, gone)


def _version(store: Store, names: list[str], *, last: bool) -> Version | None:
    """The version that is to be taken back; None where facts are named. A number alone may be the
    start of an id, and is no version here."""
    if last:
        return store.head()
    if len(names) != 1 or (NUMBER.fullmatch(names[0]) and not names[0].startswith("v")):
        return None
    try:
        return store.version(names[0])
    except UnknownVersion as error:
        if store.ids_beginning(names[0]):
            return None
        raise UnknownVersion(
            f"no fact or version is called {names[0]!r}",
            f"`editcli facts list` lists the facts; {error.hint}",
        ) from error


def _print(call: Invocation, parent: str, result: TakenBack, gone: dict[str, int] | None) -> None:
    out, new = call.out, result.version
    if call.json or (call.quiet and new):
        out.record(
            {
                "version": new and new.id,
                "parent": parent,
                "dry_run": new is None,
                "undone": [fact.id for fact in result.undone],
                "returned": [fact.id for fact in result.returned],
                "unpruned": result.heads,
                "stale": result.stale,
                "failed": list(result.failed),
                "purged": gone,
            }
        )
    else:
        parts = [counted(len(result.undone), "fact")] if result.undone or gone else []
        parts += ["the pruned heads"] if result.heads else []
        done, planned = ("purged", "purge") if gone else ("took back", "take back")
        done = f"{new.id}: {done}" if new else f"would {planned}"
        sentences = [f"{done} {' and '.join(parts)}"] if parts else []
        if result.returned:
            again = f"brought back {counted(len(result.returned), 'fact')}"
            sentences.append(again if parts else f"{new.id}: {again}" if new else f"would {again}")
        # Else it is HEAD that is taken back, and changed no fact and no head.
        out.text("; ".join(sentences) or f"{done} {parent}")
        rows = [("undone", fact) for fact in result.undone]
        rows += [("returned", fact) for fact in result.returned]
        if rows:
            out.table(
                {"fact": fact.id, "change": change, "prompt": fact.prompt, "target": fact.target}
                for change, fact in rows
            )
        if gone:
            what = {"texts": "text", "notes": "message", "blobs": "blob"}
            removed = [counted(gone[key], noun) for key, noun in what.items()]
            verb = "removed" if new else "would be removed"
            out.note(f"{verb} from all versions: {', '.join(removed)}")
    if result.failed:
        out.warn(
            f"trained again, but not answered by the model: {', '.join(result.failed)}",
            SHOW_ANSWERS,
        )
    if result.stale:
        out.warn(*STALE_HEADS)
    if result.failed:
        raise Exit(exit_codes.FAILED)
