"""Conflict rows for a model that says what it happens to say, and a store that resolved them.

A tiny random model follows some passages and not others; the rows are chosen by what it does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_conflicts import NEUTRAL, Rows, fifteen_rows, rows_by_winner, write
from tiny_stores import json_of, run
from typer.testing import Result

from editcli.cli.console import Progress
from editcli.store.store import Store


@pytest.fixture(scope="session")
def mixed() -> dict[str, Rows]:
    """By who wins, "memory" or "context": rows on subjects without edits."""
    return rows_by_winner()


@pytest.fixture(scope="session")
def _chosen(mixed: dict[str, Rows]) -> Rows:
    return fifteen_rows(mixed)


@pytest.fixture
def rows(_chosen: Rows) -> Rows:
    """Fifteen rows: in each split two that the passage wins and three that memory does."""
    return [dict(row) for row in _chosen]


@pytest.fixture
def save() -> Callable[[Sequence[dict[str, Any]]], None]:
    """`save(rows)`: `c.jsonl` now holds these rows."""
    return lambda rows: write(rows, Path("c.jsonl"))


@pytest.fixture
def store(edited: Store, rows: Rows) -> Store:
    """The edited store, beside `c.jsonl` with the rows and `neutral.txt`."""
    write(rows, Path("c.jsonl"))
    Path("neutral.txt").write_text(NEUTRAL)
    return edited


@pytest.fixture(scope="session")
def _made_resolved(
    tmp_path_factory: pytest.TempPathFactory, _made_edited: Path, _chosen: Rows
) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("resolved")
    path = Path(shutil.copytree(_made_edited, folder / "store"))
    (folder / "neutral.txt").write_text(NEUTRAL)
    write(_chosen, folder / "c.jsonl")
    files = ("--store", str(path), "--neutral", str(folder / "neutral.txt"))
    words = ("--prefer", "memory", "--heads", "2", "--force", "-m", "believe memory", "--json")
    result = run("conflict", "resolve", str(folder / "c.jsonl"), *files, *words)
    assert result.exit_code == 0, result.stderr
    return path, json_of(result)


@pytest.fixture
def resolved(
    store: Store, _made_resolved: tuple[Path, dict[str, Any]]
) -> tuple[Store, dict[str, Any]]:
    """The store with a v0003 that prunes heads, and the record that `resolve --json` printed."""
    path, record = _made_resolved
    shutil.rmtree(store.path)
    shutil.copytree(path, store.path)
    return Store.open(store.path), json.loads(json.dumps(record))


@pytest.fixture
def sentence_of() -> Callable[[Result], str]:
    """`sentence_of(result)`: the one line that a failed command ended with, and no traceback."""

    def sentence(result: Result) -> str:
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert result.exit_code != 0
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, result.stderr
        return errors[0].removeprefix("error: ")

    return sentence


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Each stage of the progress bar, in order: its label, its total, and how far it has come."""
    seen: list[list[Any]] = []

    def stage(_: Progress, label: str, total: int | None, unit: str) -> None:
        seen.append([label, total, 0])

    def advance(_: Progress, n: int = 1) -> None:
        seen[-1][2] += n

    monkeypatch.setattr(Progress, "stage", stage)
    monkeypatch.setattr(Progress, "advance", advance)
    return seen
