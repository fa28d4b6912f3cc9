"""`editcli export`: a version as a folder that other programs load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from editcli.cli.options import READS, RUNS_MODEL, VERSION_HELP, Invocation, shared
from editcli.operations.export import CARD, Kind, Scored, export, weights_folder
from editcli.report.model_card import CardContent, CardScores, ScoreRow, render_card
from editors import Fact

if TYPE_CHECKING:
    from editcli.operations.session import Session
    from editors.evaluation.metrics import Rate


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    version: Annotated[str, Argument(metavar="V", help=VERSION_HELP)],
    folder: Annotated[
        Path, Argument(metavar="FOLDER", help="Where to write; it must not exist yet.")
    ],
    kind: Annotated[
        Kind,
        Option(
            "--as",
            help="adapter: the edits alone, for `editcli.load` and `editors.load` over the same "
            "base. remote-code: base, edits and code in one folder, for transformers without "
            "editcli. merged: plain weights.",
        ),
    ] = "adapter",
    private_facts: Annotated[
        bool, Option("--private-facts", help="List no facts in the model card, only their number.")
    ] = False,
) -> None:
    """Write a version as a folder that other programs load, with a model card.

    An adapter and a model with remote code answer as `ask` does, token for token. Any program that
    uses transformers loads the latter: `from_pretrained(FOLDER, trust_remote_code=True)`. The
    base's weights are linked, not copied, where the file system allows it. An adapter and a model
    with remote code contain the facts, which tell which prompts to answer.

    Plain weights need no code at all. They are exact for edits that are always on, such as those of
    ft-m, and for pruned heads. Routed edits are merged into one change of the weights, which also
    changes other answers; what that costs is measured, printed, and written into the card.

    \b
    Examples:
      editcli export HEAD edits
      editcli export v0003 edited-model --as remote-code
      editcli export HEAD plain-model --as merged --private-facts
    """
    from editcli.operations.session import Session

    store = call.open_store()
    chosen = store.version(version)
    session = Session.open(call, store)

    def describe(facts: list[Fact], scored: Scored) -> str:
        return render_card(
            CardContent(
                name=folder.name,
                kind=kind,
                config=store.config,
                version=chosen,
                facts=facts,
                private=private_facts,
                licence=_licence(session),
                exact=not scored,
                scores=_card_scores(scored),
            )
        )

    scored = export(session, chosen, folder, kind, describe)
    scores = _card_scores(scored)
    call.out.record({"version": chosen.id, "folder": str(folder), "kind": kind})
    for row in scores.rows if scores else ():
        call.out.note(
            f"{row.name}: reliability {row.reliability}, generalization {row.generalization}, "
            f"near locality {row.near}, far locality {row.far}"
        )
    if scores:
        call.out.warn("merged edits also change other answers", "the model card has the scores")


def _card_scores(scored: Scored) -> CardScores | None:
    if not scored:
        return None
    rows = [
        ScoreRow(name, *map(_shown, (s.reliability, s.generalization, s.near, s.far)))
        for name, s in scored.items()
    ]
    return CardScores(max(len(scores.per_fact) for scores in scored.values()), rows)


def _shown(rate: Rate) -> str:
    return f"{rate.value:.3f} ({rate.low:.3f}-{rate.high:.3f})" if rate.n else "-"


def _licence(session: Session) -> str:
    """The licence that the card of the base names; empty if it has none."""
    card = weights_folder(session.base.model, session.store.config.revision) / CARD
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8", errors="replace")
    match = re.match(r"---\n.*?^license: *([\w.-]+) *$.*?^---$", text, re.DOTALL | re.MULTILINE)
    return match[1] if match else ""
