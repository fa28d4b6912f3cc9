"""What was purged might as well never have been: what is trained in the version without it is, bit
for bit, what is trained in a store that never held it.

What the scope signal knows of the facts that stay may lie in other pages.
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


def edited_one_by_one(store: Path, facts: Sequence[Fact]) -> Store:
    for fact in facts:
        file = save_facts(store.parent / "facts.jsonl", [fact])
        result = run("apply", str(file), "--store", str(store))
        assert result.exit_code == 0, result.stderr
    return Store.open(store)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("wise", {**FAST, "profile": "separate"}),
        ("ft-m", {"confidence": 0.3, "learning_rate": 0.2, "bound": 3.0}),
    ],
)
def test_a_purged_fact_leaves_nothing_in_the_blobs(
    tmp_path: Path,
    model_folder: Path,
    calibration: Path,
    method: str,
    settings: dict[str, object],
) -> None:
    empty, (one, other) = tmp_path / "empty", (tmp_path / "purged", tmp_path / "never")
    options = [f"--set={key}={value}" for key, value in settings.items()]
    place = ["--store", str(empty), "--calibration", str(calibration), "--method", method]
    assert run("init", str(model_folder), *place, *options).exit_code == 0
    for path in (one, other):
        shutil.copytree(empty, path)
    purged = edited_one_by_one(one, [FRANCE, JAPAN, PERU])
    never = edited_one_by_one(other, [FRANCE, PERU])
    assert blobs_in(purged) != blobs_in(never)
    result = run("undo", JAPAN.id, "--purge", "--store", str(purged.path))
    assert result.exit_code == 0, result.stderr
    assert in_force(purged) == in_force(never) == (FRANCE.id, PERU.id)
    left = [
        {name: digest for name, digest in blobs_in(store).items() if PAGES not in name}
        for store in (purged, never)
    ]
    assert left[0] == left[1]
    assert len(left[0]) > 1
