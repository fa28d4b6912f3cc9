"""`editcli edit`: one fact, one version."""

from __future__ import annotations

from typing import Annotated

import typer

from editcli import exit_codes
from editcli.cli.invocation import Invocation
from editcli.cli.options import RUNS_MODEL, WRITES, shared
from editors import Fact, InvalidFact, Probe

Phrasing = list[str] | None


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The prompt, as the model sees it.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="What the model should say after it.")
    ],
    subject: Annotated[
        str | None,
        typer.Option("--subject", "-s", metavar="S", help="What the fact is about, as in PROMPT."),
    ] = None,
    rephrase: Annotated[
        Phrasing,
        typer.Option("--rephrase", metavar="R", help="Another phrasing: measured, never trained."),
    ] = None,
    variant: Annotated[
        Phrasing,
        typer.Option("--variant", metavar="V", help="Another phrasing that is trained as well."),
    ] = None,
    near: Annotated[
        Phrasing, typer.Option("--near", metavar="P", help="A close prompt that must not change.")
    ] = None,
    far: Annotated[
        Phrasing,
        typer.Option("--far", metavar="P", help="An unrelated prompt that must not change."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="TEXT", help="Where the fact comes from.")
    ] = None,
) -> None:
    """Edit one fact into the model, as a new version.

    \b
    Examples:
      editcli edit "The capital of France is" Lyon --subject France
      editcli edit "Who leads Chile?" "Ana Rojas" -s Chile -m "election of May"
      editcli edit "The capital of France is" Lyon -s France --near "The sea of France is"
    """
    from editcli.operations.apply import apply_facts
    from editcli.operations.session import Session

    out = call.out
    fact = Fact(
        prompt,
        target,
        subject,
        rephrases=tuple(rephrase or ()),
        variants=tuple(variant or ()),
        locality=(
            *(Probe(p, kind="near") for p in near or ()),
            *(Probe(p, kind="far") for p in far or ()),
        ),
        source=source,
        author=call.who or None,
    )
    session = Session.open(call)
    if reason := session.why_unfit(fact):
        raise InvalidFact(reason, "shorten it")
    done = apply_facts(session, [fact], call, operation="edit")
    in_force = done.unchanged[0] if done.unchanged else fact.id
    if call.json or call.quiet:
        out.record({**done.to_dict(), "fact": in_force})
    elif done.unchanged:
        out.text(f"{done.version}: the model is already edited to say so; nothing was changed")
        out.text(f"fact {in_force}")
    else:
        instead = " in place of an older edit" if done.superseded else ""
        out.text(
            f"{done.version}: edited{instead} in {done.seconds:.1f} s ({done.iterations} steps)"
        )
        out.text(f"fact {in_force}")
    if subject is None and not call.json:
        out.hint("`--subject` names what the fact is about, so that other phrasings find the edit")
    if spoilt := [other for other in done.failed if other != fact.id]:
        out.warn(
            f"older edits that share its memory are not answered any more: {', '.join(spoilt)}",
            "`editcli check --per-fact` shows what the model says",
        )
    if fact.id in done.failed:
        out.warn(
            "the edit is saved, but the model does not answer as it says",
            "`editcli check --per-fact` shows what the model says",
        )
    if done.failed:
        raise typer.Exit(exit_codes.FAILED)
