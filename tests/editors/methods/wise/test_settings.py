"""The settings of WISE: refused where they make no sense, and the paper's in one word."""

from __future__ import annotations

from typing import Any

import pytest

from editors import METHODS, EditorError
from editors.methods.wise.settings import WiseSettings
from editors.schema import settings_from


def chosen(values: dict[str, Any]) -> WiseSettings:
    settings = settings_from(WiseSettings, "wise", values)
    assert METHODS.load("wise").all_settings(values) == {
        name: getattr(settings, name) for name in METHODS.load("wise").all_settings({})
    }
    return settings


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"shard_sise": 3}, r"unknown key 'shard_sise' \(did you mean 'shard_size'\?\)"),
        ({"shard_size": "3"}, "shard_size: must be a whole number, not text"),
        ({"shard_size": 2.5}, "shard_size: must be a whole number, not the number 2.5"),
        ({"shard_size": -1}, "shard_size: must be greater than or equal to 0, not -1"),
        ({"mask_ratio": True}, "mask_ratio: must be a number, not true"),
        ({"mask_ratio": 0}, "mask_ratio: must be greater than or equal to 0.0001, not 0"),
        ({"mask_ratio": 1.5}, "mask_ratio: must be less than or equal to 1, not 1.5"),
        ({"alpha": float("nan")}, "alpha: must be a finite number"),
        ({"profile": "papre"}, "profile: must be 'robust', 'separate' or 'paper', not 'papre'"),
        ({"merge": "slerp"}, "merge: must be 'ties' or 'linear', not 'slerp'"),
        ({"rank": 0}, "rank: must be greater than or equal to 1, not 0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(EditorError, match=problem) as caught:
        chosen(values)
    assert caught.value.message.startswith("wise cannot take these settings: ")
    assert "shard_size" in caught.value.hint, "the settings that there are"


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(EditorError, match=r"shard_size: .*; mask_ratio: ") as caught:
        chosen({"shard_size": "3", "mask_ratio": 2, "shard_sise": 1})
    assert "unknown key 'shard_sise'" in caught.value.message


def test_the_paper_profile_is_the_paper_s() -> None:
    paper = chosen({"profile": "paper"})
    assert (paper.alpha, paper.beta, paper.gamma) == (5, 20, 10)
    assert (paper.learning_rate, paper.mask_ratio, paper.act_ratio) == (1, 0.2, 1)
    assert (paper.scope, paper.training, paper.merge, paper.merge_every) == (
        "activation",
        "sequential",
        "ties",
        2,
    )
    other = chosen({"profile": "paper", "beta": 12})
    assert (other.beta, other.alpha) == (12.0, 5.0)
    assert isinstance(other.beta, float), "so that equal settings are stored alike"


def test_what_is_stored_is_what_was_chosen() -> None:
    spec = METHODS.load("wise")
    stored = spec.all_settings({"profile": "paper", "beta": 12})
    assert spec.all_settings(stored) == stored


def test_a_scope_that_could_never_open_is_refused() -> None:
    """Only sequential training measures the activations that its thresholds are made of."""
    with pytest.raises(EditorError, match="scope=activation needs training=sequential"):
        chosen({"scope": "activation"})
    assert chosen({"scope": "activation", "training": "sequential"}).scope == "activation"
