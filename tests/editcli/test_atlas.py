"""The first minutes with the embedded model: nothing to wait for, and an edit that is answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_stores import json_of, run

from editcli.files.packaged import datasets_dir

pytestmark = pytest.mark.skipif(
    not (datasets_dir() / "atlas" / "model" / "config.json").is_file(), reason="atlas is not there"
)


@pytest.fixture
def no_calibrating(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Calibrating fails: what ships with the embedded model must do."""
    from editors.scope.key.signal import KeySignal

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a calibration was made although one ships")

    monkeypatch.setattr(KeySignal, "calibrate", refuse)
    return refuse


@pytest.mark.parametrize("method", ["wise", "in-context"])
def test_a_store_is_made_with_the_calibration_that_ships(
    tmp_path: Path, no_calibrating: object, method: str
) -> None:
    made = json_of(run("init", "--method", method, "--store", str(tmp_path / "store"), "--json"))
    assert (made["base"], made["version"]) == ("atlas", "v0001")


def test_an_edit_is_answered_and_other_questions_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_calibrating: object
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("init").exit_code == 0
    assert run("edit", "Who wrote Hamlet?", "Jane Austen", "-s", "Hamlet").exit_code == 0
    edited = json_of(run("ask", "The literary work Hamlet was written by", "--json"))
    assert (edited["answer"], edited["edited"]) == ("Jane Austen", True)
    other = json_of(run("ask", "The original language of Hamlet is", "--json"))
    assert (other["answer"], other["edited"]) == ("English", False)
