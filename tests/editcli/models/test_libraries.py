"""The libraries underneath: their versions, devices and threads."""

from __future__ import annotations

import os
from importlib import metadata

import pytest

import editcli
from editcli.models.libraries import device_named, spare_threads, tools
from editors import EditorError


def test_tools_are_the_versions_that_a_manifest_records() -> None:
    assert tools() == {
        "editcli": editcli.__version__,
        "torch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
    }


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "cpu:1", ""])
def test_an_unknown_or_absent_device_is_a_usage_error(name: str) -> None:
    with pytest.raises(EditorError) as caught:
        device_named(name)
    assert repr(name) in caught.value.message
    assert "`--device" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("load", "left"), [(0.2, 8), (3.6, 4), (7.9, 1), (50.0, 1)])
def test_threads_are_those_that_other_work_leaves(
    monkeypatch: pytest.MonkeyPatch, load: float, left: int
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert spare_threads(8) == left
