"""Measurements of conflicts as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from editcli.operations.conflicts.records import trial_record
from editors.conflicts.resolve import Trial
from editors.heads.pruning import Head


def test_a_trial_is_plain_json_whatever_was_lost() -> None:
    trial = Trial((Head(1, 2),), "top_k", 0.5, 0.3, {"neutral": math.inf, "facts": 0.01})
    record = json.loads(json.dumps(trial_record(trial), allow_nan=False))
    assert record["heads"] == [[1, 2]]
    assert record["lost"] == {"neutral": None, "facts": 0.01}
    assert (record["value"], record["fits"]) == (None, False)


def test_a_set_of_heads_that_was_not_checked_whole_has_no_value() -> None:
    open_set = Trial((Head(1, 2),), "top_k", 0.5, 0.3, {"facts": 0.01}, complete=False)
    assert (trial_record(open_set)["value"], trial_record(open_set)["fits"]) == (None, None)
    beyond = replace(open_set, lost={"facts": 0.5})
    assert (trial_record(beyond)["value"], trial_record(beyond)["fits"]) == (None, False)
    whole = replace(open_set, complete=True)
    assert trial_record(whole)["value"] == whole.value
    assert trial_record(whole)["fits"] is True
