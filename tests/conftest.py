"""Fixtures of the whole suite."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import hypothesis
import pytest

# Read when the libraries are imported, so they are set before any test module is: no test may reach
# for the network, and one thread makes floating-point sums repeatable. Subprocesses inherit both.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
# Large libraries leave a million objects that live for ever, and are gone through again and again.
gc.set_threshold(100_000, 50, 50)
# A developer's own settings must not change what is tested.
for name in [name for name in os.environ if name.startswith("EDITCLI_")]:
    del os.environ[name]
for name in ("NO_COLOR", "FORCE_COLOR"):
    os.environ.pop(name, None)

# `make test-all` takes the thorough profile by an option.
hypothesis.settings.register_profile("quick", max_examples=40, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=400, deadline=None)
hypothesis.settings.load_profile("quick")

pytest_plugins = ["tiny_models", "real_processes"]  # tests/support, on the path by pyproject.toml


@pytest.fixture
def toy_package(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package that registers a method and scope signals, on the path."""
    folder = Path(__file__).parent / "toy_package"
    monkeypatch.syspath_prepend(str(folder))
    return folder
