"""`editcli edit`: one fact, one version."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Exit, Option

from editcli import exit_codes
from editcli.cli.options import (
    RUNS_MODEL,
    WRITES,
    DryRunOption,
    Invocation,
    PlainOption,
    shared,
)
from editcli.operations.editing.forecast import Objections, forecast, told_forecast
from editcli.operations.scores.minima import (
    CanariesOption,
    Gate,
    MinGeneralizationOption,
    MinLocalityOption,
    MinReliabilityOption,
)
from editcli.store.edits import edits_of
from editcli.store.store import Store
from editors import Fact, InvalidFact, Probe

Prompts = list[str] | None


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
    prompt: Annotated[str, Argument(metavar="PROMPT", help="The prompt, as the model sees it.")],
    target: Annotated[str, Argument(metavar="TARGET", help="What the model should say after it.")],
    subject: Annotated[
        str | None,
        Option("--subject", "-s", metavar="S", help="What the fact is about, a name in PROMPT."),
    ] = None,
    alias: Annotated[
        list[str] | None, Option(metavar="NAME", help="Another name of the subject.")
    ] = None,
    rephrase: Annotated[
        Prompts, Option(metavar="R", help="Another phrasing, measured and never trained.")
    ] = None,
    variant: Annotated[
        Prompts, Option(metavar="V", help="Another phrasing, trained as well.")
    ] = None,
    near: Annotated[
        Prompts, Option(metavar="P", help="A close prompt whose answer must not change.")
    ] = None,
    far: Annotated[
        Prompts, Option(metavar="P", help="An unrelated prompt whose answer must not change.")
    ] = None,
    source: Annotated[str | None, Option(metavar="TEXT", help="Where the fact comes from.")] = None,
    plain: PlainOption = False,
    canaries: CanariesOption = None,
    min_reliability: MinReliabilityOption = None,
    min_generalization: MinGeneralizationOption = None,
    min_locality: MinLocalityOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Edit one fact into the model, as a new version.

    --alias, --rephrase, --variant, --near and --far may be repeated. With a minimum, the edit is
    scored before it counts: if a score is below, its version is kept as rejected, HEAD stays, and
    the exit code is 3.

    \b
    Examples:
      editcli edit "The capital of France is" Lyon --subject France
      editcli edit "Who leads Chile?" "Ana Rojas" -s Chile -m "election of May"
      editcli edit "The UK's longest river is the" Thames -s UK --alias Britain
      editcli edit "The capital of France is" Lyon -s France --near "The sea of France is"
    """
    from editcli.operations.editing.edit_fact import (
        NO_SUBJECT,
        edit_fact,
        warn_of_failures,
        what_was_done,
    )
    from editcli.operations.session import Session

    out, store = call.out, call.open_store()
    usual = store.config.minima
    gate = Gate.of(canaries, min_reliability, min_generalization, min_locality, usual)
    fact = Fact(
        prompt,
        target,
        subject,
        aliases=tuple(alias or ()),
        rephrases=tuple(rephrase or ()),
        variants=tuple(variant or ()),
        locality=(
            *(Probe(p, kind="near") for p in near or ()),
            *(Probe(p, kind="far") for p in far or ()),
        ),
        source=source,
        author=call.who or None,
    )
    if dry_run:
        _forecast(call, store, fact)
        return
    result = edit_fact(Session.open(call, store), fact, call, chats=not plain, gate=gate)
    in_force = result.unchanged[0] if result.unchanged else fact.id
    if call.json or call.quiet:
        out.record({**result.to_dict(), "dry_run": False, "fact": in_force})
    else:
        out.text(f"{result.version}: {what_was_done(result)}", f"fact {in_force}")
    if subject is None and not call.json:
        out.hint(NO_SUBJECT.format(option="`--subject`"))
    warn_of_failures(out, fact, result)
    if result.missed:
        raise Exit(exit_codes.BELOW_THRESHOLD)
    if result.failed:
        raise Exit(exit_codes.FAILED)


def _forecast(call: Invocation, store: Store, fact: Fact) -> None:
    """Say what the edit would do."""
    head = store.head()
    edits = edits_of(store, head)
    if objection := Objections(store, head, edits).to(fact):
        raise InvalidFact(objection, "change the fact")
    counts = forecast(edits, [fact])
    if call.json:
        about = {"version": None, "parent": head.id, "dry_run": True}
        call.out.record({**about, **counts, "refused": 0, "fact": fact.id})
    call.out.text(told_forecast(counts), f"fact {fact.id}")
