"""Recorded states beyond a budget: in files, and the same to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_edits import FACTS, PAPER, edit

from editors.methods.applying import Limits
from editors.methods.training.state_offload import StateOffload

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
def test_states_come_back_and_only_what_is_beyond_the_budget_is_in_files(
    budget: int | None, temporary: Path
) -> None:
    offload = StateOffload(budget)
    offloaded = [offload.keep(STATES) for _ in range(3)]
    for states in offloaded:
        assert list(states) == list(STATES)
        assert len(states) == len(STATES)
        for name, tensor in STATES.items():
            assert torch.equal(states[name], tensor)
            assert states[name].dtype == tensor.dtype
    files = sum(path.is_file() for path in temporary.rglob("*"))
    assert files == (0 if budget is None else 3 - min(3, budget // SIZE))


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("rows", [[1], [2, 0], [0, 1, 2]])
def test_some_rows_of_a_state_are_those_rows(budget: int | None, rows: list[int]) -> None:
    offload = StateOffload(budget)
    states = offload.keep(STATES)
    assert torch.equal(states.part("inputs", rows, 3), STATES["inputs"][rows, :3])


def test_files_go_with_what_made_them(temporary: Path) -> None:
    offload = StateOffload(0)
    states = offload.keep(STATES)
    assert any(temporary.iterdir())
    del offload, states
    assert not any(temporary.iterdir())


@pytest.mark.parametrize(
    ("name", "settings"), [("wise", None), ("wise", {**PAPER, "max_steps": 3}), ("ft-m", None)]
)
def test_a_budget_changes_no_edit(
    tiny_method: Callable[..., Any], name: str, settings: Any, temporary: Path
) -> None:
    method = tiny_method(name, "llama", settings)
    tight = edit(method, FACTS, limits=Limits(memory_bytes=0))
    assert method.save(tight.state) == method.save(edit(method, FACTS).state)
    assert not any(temporary.iterdir())


def test_a_budget_is_kept_to(
    tiny_method: Callable[..., Any], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test above would compare nothing."""
    files: list[Path] = []
    keep = StateOffload.keep

    def noting(self: StateOffload, tensors: Any) -> Any:
        states = keep(self, tensors)
        files.extend(path for path in temporary.rglob("*") if path.is_file())
        return states

    monkeypatch.setattr(StateOffload, "keep", noting)
    for name in ("wise", "ft-m"):
        files.clear()
        edit(tiny_method(name), FACTS[:2], limits=Limits(memory_bytes=0))
        assert files
