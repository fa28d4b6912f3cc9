"""docs/models.md says what holds on each family of models: measured again, and written as saved."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from promises import LAST_BITS, measure
from tiny_configs import CONFIGS

ROOT = Path(__file__).parents[1]
# Weights of another layout; norms after a sublayer; weights and experts of other names in a file.
QUICK = ("gpt2", "gemma2", "gpt_neox", "deepseek_v3")
RESULTS = ROOT / "docs" / "models.json"

pytestmark = pytest.mark.skipif(not RESULTS.is_file(), reason="docs are not there")


@pytest.fixture
def saved() -> dict[str, Any]:
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """`scripts/bench/models.py`."""
    folder = ROOT / "scripts" / "bench"
    spec = spec_from_file_location("bench_models", folder / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=() if family in QUICK else pytest.mark.slow) for family in CONFIGS],
)
def test_the_page_says_what_holds(saved: dict[str, Any], tmp_path: Path, family: str) -> None:
    try:
        found = measure(family, tmp_path / family)
    except ValueError as error:
        if "Unrecognized model" not in str(error):
            raise
        pytest.skip("this release of transformers has no such family")
    for result in (found, saved[family]):  # which kernels round alike depends on the machine
        promises = result.get("promises", {})
        if promises.get("beside") == LAST_BITS:
            promises["beside"] = ""
    assert found == saved[family]


def test_the_page_is_written_from_what_was_measured(
    saved: dict[str, Any], script: ModuleType
) -> None:
    assert RESULTS.with_suffix(".md").read_text(encoding="utf-8") == script.page(saved)
    assert set(saved) == {*CONFIGS, script.LIBRARIES}
