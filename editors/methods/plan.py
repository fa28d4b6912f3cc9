"""What applying facts has to do: which of them are trained, and which only tell more."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from editors.errors import InvalidFact
from editors.facts import Fact
from editors.methods.aliases import KnownNames
from editors.methods.edit_state import EditState


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with facts: the ``numbers`` of those that are trained, in order, and their
    ``count``; those of them that complete a fact in force (``completed``); by id in force, the
    numbers of those that change nothing in what is trained (``unchanged``), and the texts of those
    of which more is told now (``updated``)."""

    numbers: Iterator[int]
    count: int = 0
    completed: dict[int, Fact] = field(default_factory=dict)
    unchanged: dict[str, int] = field(default_factory=dict)
    updated: dict[str, Fact] = field(default_factory=dict)

    def next_group(self, facts: Sequence[Fact], size: int) -> dict[int, Fact]:
        """The facts that are trained next, at most ``size``, by number."""
        numbers = islice(self.numbers, size)
        return {number: self.completed.get(number) or facts[number] for number in numbers}


def plan_of(
    state: EditState, facts: Sequence[Fact], require_trainable: Callable[[Fact], None]
) -> Plan:
    """What is to be done with ``facts``, given ``state``. ``require_trainable`` raises EditorError
    for a fact that cannot be encoded; InvalidFact is raised for one with the name of another
    subject.

    ``facts`` may be a lazy sequence over a file, so facts are not kept, only their numbers.
    """
    in_force = {fact.prompt: fact for fact in state.in_force()}
    new: dict[str, tuple[str, str]] = {}  # by prompt, target and id
    names = KnownNames(state.in_force())
    fresh, plan = array("Q"), Plan(iter(()))
    for number, fact in enumerate(facts):
        target, current = new.get(fact.prompt, (None, ""))
        if target == fact.target:
            plan.unchanged[current] = number
            continue
        old = None if target else in_force.get(fact.prompt)
        if old and old.target == fact.target:
            told = plan.updated.get(old.id, old)
            completed = told.completed_by(fact)
            if completed.is_trained_as(old):
                plan.unchanged[old.id] = number
                if completed != told:
                    plan.updated[old.id] = completed
                continue
            plan.completed[number] = fact = completed
        if clash := names.clash(fact):
            raise InvalidFact(clash, "correct what is named")
        names.add(fact)
        require_trainable(fact)
        new[fact.prompt] = fact.target, fact.id
        fresh.append(number)
    return replace(plan, numbers=iter(fresh), count=len(fresh))
