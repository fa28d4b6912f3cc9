"""Recorded states beyond a budget: in files, and the same to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, edit, no_edits

from editors.methods.base import Limits, NoMemo
from editors.methods.training.state_offload import Spool

STATES = {
    "inputs": torch.arange(12, dtype=torch.float32).view(3, 4),
    "hidden": torch.ones(2, 2, dtype=torch.bfloat16),
}
SIZE = 12 * 4 + 4 * 2


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("budget", [None, 0, SIZE, 2 * SIZE, 3 * SIZE])
def test_what_is_kept_comes_back_and_only_what_is_beyond_the_budget_is_in_files(
    budget: int | None, temporary: Path
) -> None:
    spool = Spool(budget)
    kept = [spool.keep(STATES) for _ in range(3)]
    for found in kept:
        assert list(found) == list(STATES)
        assert len(found) == len(STATES)
        for name, tensor in STATES.items():
            assert torch.equal(found[name], tensor)
            assert found[name].dtype == tensor.dtype
    files = sum(path.is_file() for path in temporary.rglob("*"))
    assert files == (0 if budget is None else 3 - min(3, budget // SIZE))


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("rows", [[1], [2, 0], [0, 1, 2]])
def test_a_part_of_what_is_kept_is_that_part(budget: int | None, rows: list[int]) -> None:
    spool = Spool(budget)
    kept = spool.keep(STATES)
    assert torch.equal(kept.part("inputs", rows, 3), STATES["inputs"][rows, :3])


def test_files_go_with_the_spool(temporary: Path) -> None:
    spool = Spool(0)
    kept = spool.keep(STATES)
    assert any(temporary.iterdir())
    del spool, kept
    assert not any(temporary.iterdir())


@pytest.mark.parametrize("settings", [{}, {"profile": "paper", "max_steps": 3, "mask_ratio": 0.5}])
def test_a_budget_changes_no_edit(
    tiny_wise: Callable[..., Any], settings: dict[str, Any], temporary: Path
) -> None:
    method = tiny_wise("llama", settings) if settings else tiny_wise("llama")
    used = []
    tight = method.apply(
        no_edits(method),
        FACTS,
        memo=NoMemo(),
        on_progress=lambda _: used.append(True) is None,
        limits=Limits(memory=0),
    )
    assert tight.state.to_blobs() == edit(method, FACTS).state.to_blobs()
    assert used
    assert not any(temporary.iterdir())
