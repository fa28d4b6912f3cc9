"""The engine: what waits is answered in batches, and one bad prompt spoils no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event as Signal
from typing import Any

import pytest
from tiny_edits import FACTS, FRANCE

from editcli.cli.options import Invocation
from editcli.errors import ServerClosing
from editcli.operations.session import Session
from editcli.serve.engine import Decided, Engine, Failed, Job, Served
from editcli.store.store import Store
from editors import PromptTooLong

SECONDS = 30  # before a test gives up
TOO_LONG = "the " * 200


class Waiting:
    """What a job has told, and waiting for its end."""

    def __init__(self, served: Served, prompt: Any, **options: Any) -> None:
        self.events: list[Any] = []
        self._over = Signal()
        self.at_end: Callable[[], None] = lambda: None
        self.job = Job(served, prompt, options.pop("max_new_tokens", 8), self._tell, **options)

    def _tell(self, event: Any) -> None:
        self.events.append(event)
        if not isinstance(event, Decided | str):
            self.at_end()
            self._over.set()

    @property
    def last(self) -> Any:
        assert self._over.wait(SECONDS)
        return self.events[-1]


@pytest.fixture
def session(edited: Store) -> Session:
    return Session.open(Invocation(store=edited.path, device="cpu"), edited)


@pytest.fixture
def engine(session: Session) -> Iterator[Engine]:
    with Engine(session, 4) as engine:
        yield engine


@pytest.fixture
def head(session: Session) -> Served:
    return Served("v0002", session.state())


def test_more_than_a_batch_holds_is_answered_in_several(engine: Engine, head: Served) -> None:
    asked = [Waiting(head, FACTS[number % 4].prompt) for number in range(11)]
    engine.submit([one.job for one in asked])
    assert [one.last.text for one in asked] == [FACTS[n % 4].target for n in range(11)]
    for one in asked:
        decided, answer = one.events
        assert decided.decision.record["edited"] is True
        assert (answer.end, answer.tokens >= 2) == ("stop", True)


def test_what_came_first_is_answered_first(session: Session, head: Served) -> None:
    base, over = Served("base", None), list[int]()
    asked = [Waiting(base if number == 4 else head, FRANCE.prompt) for number in range(9)]
    for number, one in enumerate(asked):
        one.at_end = lambda number=number: over.append(number)
    with Engine(session, 2) as engine:
        engine.submit([one.job for one in asked])
        assert all(one.last.text for one in asked)
    assert over.index(4) <= 4
    assert [number for number in over if number != 4] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_prompt_that_cannot_be_asked_fails_alone(engine: Engine, head: Served) -> None:
    good, bad, odd = (Waiting(head, prompt) for prompt in (FRANCE.prompt, TOO_LONG, [3.5]))
    engine.submit([bad.job, good.job, odd.job])
    assert good.last.text == FRANCE.target
    assert isinstance(bad.last, Failed)
    assert isinstance(bad.last.error, PromptTooLong)
    assert isinstance(odd.last, Failed)
    later = Waiting(head, FRANCE.prompt)
    engine.submit([later.job])
    assert later.last.text == FRANCE.target


def test_a_batch_that_breaks_is_told_so_and_the_next_is_answered(
    engine: Engine, head: Served
) -> None:
    no_text: Any = (5,)
    asked = [Waiting(head, FRANCE.prompt), Waiting(head, FRANCE.prompt, stops=no_text)]
    engine.submit([one.job for one in asked])
    assert [type(one.last.error) for one in asked] == [TypeError] * 2
    later = Waiting(head, FRANCE.prompt)
    engine.submit([later.job])
    assert later.last.text == FRANCE.target


def test_versions_and_the_base_take_turns(engine: Engine, head: Served, session: Session) -> None:
    first, base = Served("v0001", session.state("v0001")), Served("base", None)
    asked = [Waiting(served, FRANCE.prompt) for served in (head, base, first) * 3]
    engine.submit([one.job for one in asked])
    texts = [one.last.text for one in asked]
    assert texts[0::3] == [FRANCE.target] * 3
    assert {*texts[1::3], *texts[2::3]} == {texts[1]} != {FRANCE.target}


def test_a_job_that_nobody_wants_is_not_answered(engine: Engine, head: Served) -> None:
    dropped, wanted = Waiting(head, FRANCE.prompt), Waiting(head, FRANCE.prompt)
    dropped.job.unwanted = True
    engine.submit([dropped.job, wanted.job])
    assert wanted.last.text == FRANCE.target
    assert dropped.events == []


def test_what_waits_when_the_engine_closes_is_told(session: Session, head: Served) -> None:
    asked = [Waiting(head, "Ann plays", max_new_tokens=100) for _ in range(30)]
    with Engine(session, 1) as engine:
        engine.submit([one.job for one in asked])
    ends = [one.last for one in asked]
    assert isinstance(ends[-1], Failed)
    assert isinstance(ends[-1].error, ServerClosing)
    late = Waiting(head, FRANCE.prompt)
    engine.submit([late.job])
    assert isinstance(late.last.error, ServerClosing)
    with session.method.attach(head.state):
        pass  # the base is free again
