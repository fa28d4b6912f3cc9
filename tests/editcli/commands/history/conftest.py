"""A store with a past, whose times are read in Tokyo."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_stores import store_with_a_past

from editcli.store.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """`store_with_a_past`, in the current folder, nine hours ahead of UTC: noon is 21:00."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield store_with_a_past(tmp_path / ".editcli")
    time.tzset()
