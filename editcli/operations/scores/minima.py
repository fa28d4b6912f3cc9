"""Scores that have to be reached, and the gate that new edits have to pass to become HEAD."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from editcli.errors import UsageError
from editcli.files.facts import read_facts
from editcli.operations.scores.records import HEADLINES, Scores, kept_scores
from editors import Fact

if TYPE_CHECKING:
    from editcli.operations.session import Session
    from editors.evaluation.metrics import Rate
    from editors.methods.edit_state import EditState

MEASURED_ON = {
    "reliability": "a prompt",
    "generalization": "`rephrases`",
    "locality": "`locality` prompts",
}
"""The scores that may have a minimum, and the part of a fact that each is measured on."""


def _minimum(score: str) -> Any:
    return Option(metavar="X", min=0, max=1, help=f"Exit with 3 if {score} is below X.")


MinReliabilityOption = Annotated[float | None, _minimum("reliability")]
MinGeneralizationOption = Annotated[float | None, _minimum("generalization")]
MinLocalityOption = Annotated[float | None, _minimum("locality")]
CanariesOption = Annotated[
    str | None,
    Option(
        metavar="FILE",
        help="Facts that the new version is scored on; without it, on the new facts. A version "
        "below a minimum is kept as rejected, and HEAD stays.",
    ),
]


def missed(scores: Scores, minima: Mapping[str, float | None]) -> Iterator[str]:
    """In words, each score that is below its minimum, in each form."""
    for form, of_form in scores.items():
        for name, minimum in minima.items():
            rate: Rate = getattr(of_form, name)
            if minimum is None or rate.value >= minimum:
                continue
            where = " in chats" if form == "chat" else ""
            if rate.n:
                yield f"{name}{where} {rate.value:.4f} is below {minimum}"
            elif form == "plain":  # both forms have the same prompts
                yield f"{name} cannot be at least {minimum}: no fact has {MEASURED_ON[name]}"


@dataclass(frozen=True, slots=True)
class Gate:
    """What edits have to reach to become HEAD: ``minima`` by score, on the facts of the file
    ``canaries``, or on the new facts (empty)."""

    minima: Mapping[str, float | None]
    canaries: Sequence[Fact] = ()
    file: str = ""

    @staticmethod
    def of(
        canaries: str | None,
        reliability: float | None,
        generalization: float | None,
        locality: float | None,
        usual: Mapping[str, float],
    ) -> Gate | None:
        """The gate that these options ask for, or the ``usual`` minima of the store; None where
        there is none.

        Raises:
            UsageError: there are canaries, and no minimum.
            EditorError: the file cannot be read.
        """
        given = (reliability, generalization, locality)
        values = [
            usual.get(name) if value is None else value
            for name, value in zip(MEASURED_ON, given, strict=True)
        ]
        if all(value is None for value in values):
            if canaries is not None:
                raise UsageError(
                    "--canaries names facts to score, and no minimum is given",
                    "`--canaries FILE --min-reliability 1`",
                )
            return None
        minima = dict(zip(MEASURED_ON, values, strict=True))
        facts = [] if canaries is None else [*read_facts(canaries).require()]
        return Gate(minima, facts, canaries or "")

    def judged(
        self, session: Session, state: EditState, new: Sequence[Fact]
    ) -> tuple[list[str], dict[str, Any]]:
        """What the edits ``state`` miss, in words, and their scores as a store keeps them."""
        from editors.evaluation.edit_scores import score_edits

        scored = score_edits(
            session.base,
            lambda: session.method.attach(state),
            self.canaries or new,
            headline=HEADLINES["plain"],
            teacher_forced=False,
        )
        scores: Scores = {"plain": scored}
        return [*missed(scores, self.minima)], kept_scores(self.file or "the new facts", scores)
