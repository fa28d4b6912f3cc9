"""What was purged might as well never have been: the blobs of the version without it are, bit for
bit, those of a store that never held it.

Where facts came one by one, what the scope signal knows of them may lie in other pages.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_edits import FAST, FRANCE, JAPAN, PERU
from tiny_stores import blobs_in, in_force, run, save_facts

from editcli.store.store import Store
from editors import Fact

PAGES = "scope-keys-"


def edited(store: Path, facts: Sequence[Fact], *, at_once: bool) -> Store:
    for some in [facts] if at_once else [[fact] for fact in facts]:
        file = save_facts(store.parent / "facts.jsonl", some)
        result = run("apply", str(file), "--store", str(store))
        assert result.exit_code == 0, result.stderr
    return Store.open(store)


@pytest.mark.parametrize(
    ("method", "settings", "at_once"),
    [
        ("wise", {**FAST, "profile": "separate"}, False),
        ("wise", {**FAST, "profile": "separate"}, True),
        ("in-context", {"rank": 8}, True),
        ("ft-m", {"confidence": 0.3, "learning_rate": 0.2, "bound": 3.0}, False),
    ],
)
def test_a_purged_fact_leaves_nothing_in_the_blobs(
    tmp_path: Path,
    model_folder: Path,
    calibration: Path,
    method: str,
    settings: dict[str, object],
    at_once: bool,
) -> None:
    empty, (one, other) = tmp_path / "empty", (tmp_path / "purged", tmp_path / "never")
    options = [f"--set={key}={value}" for key, value in settings.items()]
    place = ["--store", str(empty), "--calibration", str(calibration), "--method", method]
    assert run("init", str(model_folder), *place, *options).exit_code == 0
    for path in (one, other):
        shutil.copytree(empty, path)
    purged = edited(one, [FRANCE, JAPAN, PERU], at_once=at_once)
    never = edited(other, [FRANCE, PERU], at_once=at_once)
    assert blobs_in(purged) != blobs_in(never)
    result = run("undo", JAPAN.id, "--purge", "--store", str(purged.path))
    assert result.exit_code == 0, result.stderr
    assert in_force(purged) == in_force(never) == (FRANCE.id, PERU.id)
    left = [
        {name: digest for name, digest in blobs_in(store).items() if at_once or PAGES not in name}
        for store in (purged, never)
    ]
    assert left[0] == left[1]
    assert len(left[0]) > 1
