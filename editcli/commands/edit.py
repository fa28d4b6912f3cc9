"""`editcli edit`: one fact, one version."""

from __future__ import annotations

from typing import Annotated

import typer

from editcli.cli.console import Output
from editcli.cli.options import (
    AuthorOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MessageOption,
    QuietOption,
    StoreOption,
    VerboseOption,
)

SUBJECT_HINT = "name it with `--subject` so that other phrasings of the question find the edit"


def command(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The query, as the model sees it.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The wanted continuation.")],
    subject: Annotated[
        str | None,
        typer.Option("--subject", "-s", metavar="S", help="What the fact is about, as in PROMPT."),
    ] = None,
    rephrase: Annotated[
        list[str] | None,
        typer.Option("--rephrase", metavar="R", help="Another phrasing, measured, never trained."),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="V", help="Another phrasing that may be trained on."),
    ] = None,
    near: Annotated[
        list[str] | None,
        typer.Option("--near", metavar="P", help="A close prompt that must not change."),
    ] = None,
    far: Annotated[
        list[str] | None,
        typer.Option("--far", metavar="P", help="An unrelated prompt that must not change."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="TEXT", help="Where the fact comes from.")
    ] = None,
    message: MessageOption = "",
    author: AuthorOption = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Teach the model one fact and save it as a new version.

    \b
    Examples:
      editcli edit "The capital of France is" Lyon --subject France
      editcli edit "Who leads Chile?" "Ana Rojas" -s Chile -m "election of May"
      editcli edit "The capital of France is" Lyon -s France --near "The sea of France is"
    """
    from editcli.cli.context import author as who
    from editcli.cli.context import command_words
    from editcli.operations.apply import apply_facts
    from editcli.operations.session import Workspace
    from editors import Fact, InvalidFact, Probe

    out = Output(json_mode=json, quiet=quiet, verbose=verbose)
    name = who(author)
    fact = Fact(
        prompt,
        target,
        subject,
        rephrases=tuple(rephrase or ()),
        variants=tuple(variant or ()),
        locality=tuple(
            [Probe(p, kind="near") for p in near or ()] + [Probe(p, kind="far") for p in far or ()]
        ),
        source=source,
        author=name or None,
    )
    workspace = Workspace.open(store, device=device, dtype=dtype, verbose=verbose)
    if reason := workspace.unfit(fact):
        raise InvalidFact(reason, "shorten it")
    done = apply_facts(
        workspace,
        [fact],
        out,
        operation="edit",
        command=command_words(),
        refused=0,
        author=name,
        message=message,
    )
    standing = done.unchanged[0] if done.unchanged else fact.id
    if json or quiet:
        out.record({**done.to_dict(), "fact": standing})
    elif done.unchanged:
        out.text(f"{done.version}: the model is already edited to say so, nothing was changed")
        out.text(f"fact {standing}")
    else:
        took = " in place of an older edit" if done.superseded else ""
        out.text(f"{done.version}: edited{took} in {done.seconds:.1f} s ({done.iterations} steps)")
        out.text(f"fact {standing}")
    if subject is None and not json:
        out.hint(SUBJECT_HINT)
    if spoilt := [other for other in done.failed if other != fact.id]:
        out.warn(
            f"older edits beside it are no longer answered: {', '.join(spoilt)}",
            "`editcli check --per-fact` shows what the model says",
        )
    if fact.id in done.failed:
        out.warn(
            "the edit is saved, but the model does not answer as it says",
            "`editcli check --per-fact` shows what the model says",
        )
    if done.failed:
        raise typer.Exit(1)
