"""What the signal `relation` learns of a fact: by its own names, whatever other facts there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_edits import SETTINGS, no_edits

from editors import Fact
from editors.scope.relation.asking import MARK

RIVER = Fact("the sea of the River Lima is", "red", "Lima")  # only inside a longer name
ALIAS = Fact("the capital of Kenya is", "Oslo", "Kenya", aliases=("Egypt",))
LONGER = Fact("the capital of South Kenya is", "Lima", "South Kenya")


@pytest.fixture(scope="module")
def signal(tiny_method: Callable[..., Any]) -> Any:
    method = tiny_method("in-context", settings={**SETTINGS["in-context"], "scope": "relation"})
    return method._scope.signal(no_edits(method).payload)


def test_a_fact_is_learnt_alike_alone_and_among_others(signal: Any) -> None:
    facts = [RIVER, ALIAS, LONGER]
    together = signal.learn(facts).keys()
    for fact in facts:
        alone = signal.learn([fact]).keys()[fact.id]
        torch.testing.assert_close(together[fact.id]["keys"], alone["keys"], atol=2e-3, rtol=0)


def test_every_name_of_the_subject_is_taken_out(signal: Any) -> None:
    of_alias = signal.learn([ALIAS]).keys()[ALIAS.id]["keys"]
    torch.testing.assert_close(of_alias[0], of_alias[1])
    river = signal.learn([RIVER]).keys()[RIVER.id]["keys"][0]
    masked = signal.calibration.directions_of([f"the sea of {MARK} is"])[0]
    torch.testing.assert_close(river.float(), masked, atol=2e-3, rtol=0)
