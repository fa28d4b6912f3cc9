"""`editcli status`: the store at a glance, and what to do next."""

from __future__ import annotations

from typing import Any

from editcli.cli.options import READS, Invocation, shared
from editcli.operations.scores.records import told_scores
from editcli.store.edits import described
from editcli.store.store import Store
from editcli.wording import local_time
from editors import METHODS

STOPPED = "an `edit` or `apply` was stopped: the same command goes on"
UNDER_WAY = "an `edit` or `apply` is under way"


@shared(*READS)
def command(call: Invocation) -> None:
    """Show the store, its base, the current version, and what to do next.

    `editcli` alone does the same where there is a store.

    \b
    Examples:
      editcli status
      editcli status --json
    """
    store = call.open_store()
    record = status_of(store)
    hints = record["next"]
    if call.json:
        call.out.record(record)
        return
    tags = [name for name in record["tags"] if name != "HEAD"]
    checked = told_scores(record["scores"]) if record["scores"] else None
    lines = {
        **record,
        "at": local_time(record["at"]),
        "scores": checked,
        "tags": tags,
        "next": None,
    }
    call.out.record({key: value for key, value in lines.items() if value not in (None, "", [], 0)})
    for hint in hints:
        call.out.hint(hint)


def status_of(store: Store) -> dict[str, Any]:
    """What `editcli status` prints."""
    head, refs = store.head(), store.refs()
    edits = described(store, head)
    facts, newest = store.count(head), store.ids()[-1]
    unfinished, under_way = len(store.journal.entries()), store.journal.in_use()
    checks = store.scores(head)
    return {
        "store": str(store.path),
        "base": store.config.base,
        "method": METHODS.load(edits.method).name,
        "version": head.id,
        "tags": [name for name, version in refs.items() if version == head.id],
        "newest": newest,
        "facts": facts,
        "prefer": edits.pruning and edits.pruning.prefer,
        "operation": head.operation,
        "at": head.at,
        "who": head.who,
        "message": head.message,
        "scores": checks[-1] if checks else None,
        "unfinished": unfinished,
        "next": [
            *([UNDER_WAY] if under_way else [STOPPED] if unfinished else []),
            *_next(facts, head.id == newest, checked=bool(checks)),
        ],
    }


def _next(facts: int, at_newest: bool, *, checked: bool) -> list[str]:
    """What a user may want to do, the most urgent first."""
    hints = []
    if not at_newest:
        hints.append("HEAD is not the newest version: `editcli log --graph`")
    if not facts:
        hints.append("`editcli edit PROMPT TARGET --subject SUBJECT` makes the first edit")
    elif not checked:
        hints.append("`editcli check` measures this version")
    return hints
