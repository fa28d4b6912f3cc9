"""Editing one fact in, as one version: what ``edit`` and a chat share."""

from __future__ import annotations

from editcli.cli.console import Output
from editcli.cli.options import Invocation
from editcli.operations.editing.apply import ApplyResult, apply_facts
from editcli.operations.scores.minima import Gate
from editcli.operations.session import Session
from editcli.wording import SHOW_ANSWERS
from editors import Fact, InvalidFact

NO_SUBJECT = (
    "without a subject, the edit misses more of its other wordings and claims more of the "
    "questions that are close to it; {option} names what the fact is about"
)


def edit_fact(
    session: Session,
    fact: Fact,
    call: Invocation,
    *,
    chats: bool = True,
    gate: Gate | None = None,
) -> ApplyResult:
    """Edit ``fact`` into the version that is HEAD, as the next version. ``chats``: it is trained in
    chats, too. ``gate``: what the edit has to reach to become HEAD.

    Raises:
        InvalidFact: the base cannot take the fact.
        EditorError: another process writes to the store, or the fact cannot be trained.
        Interrupted: Ctrl-C was pressed twice.
    """
    from editors.methods.applying import Limits

    if reason := session.why_unfit(fact):
        raise InvalidFact(reason, "shorten or change the text")
    limits = Limits(chats=chats)
    return apply_facts(session, [fact], call, operation="edit", limits=limits, gate=gate)


def what_was_done(result: ApplyResult) -> str:
    """What an edit did, in words."""
    if result.updated:
        return "the model is already edited to say so; what is told of the fact was kept"
    if result.unchanged:
        return "the model is already edited to say so; nothing was changed"
    instead = " in place of an older edit" if result.superseded else ""
    return f"edited{instead} in {result.seconds:.1f} s ({result.iterations} steps)"


def warn_of_failures(out: Output, fact: Fact, result: ApplyResult) -> None:
    """Name the facts that the model does not answer after the edit of ``fact``."""
    if spoilt := [fact_id for fact_id in result.failed if fact_id != fact.id]:
        out.warn(f"older edits are no longer answered: {', '.join(spoilt)}", SHOW_ANSWERS)
    if fact.id in result.failed:
        out.warn(f"the edit is saved, but the model does not answer {fact.target!r}", SHOW_ANSWERS)
