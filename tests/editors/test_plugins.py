"""Names that stand for classes: our own, and those that other packages register."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from editors import METHODS, EditorError
from editors.plugins import Registry

GROUP = "editcli.toys"
OWN = {
    "ours": "editors.errors:EditorError",
    "other": "editors.text_matching:words",
    "gone": "editors.no_such_module:X",
}
TOY = """
class Spinning:
    pass

rolling = 7
"""


@pytest.fixture
def toys() -> Registry[object]:
    return Registry("toy", GROUP, OWN)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of another distribution, installed, that registers two toys."""
    (tmp_path / "toy_of_tests.py").write_text(TOY)
    metadata = tmp_path / "toy-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[{GROUP}]\nspinning = toy_of_tests:Spinning\nours = toy_of_tests:Spinning\n"
        "rolling = toy_of_tests:rolling\nbroken = no_such_toy:X\n"
        "[another.group]\nstray = toy_of_tests:Spinning\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_of_tests", raising=False)
    return tmp_path


def test_own_names_are_sorted_and_load_what_they_stand_for(toys: Registry[object]) -> None:
    from editors.text_matching import words

    assert toys.names() == ("gone", "other", "ours")
    assert toys.load("ours") is EditorError
    assert toys.load("other") is words


def test_nothing_is_imported_before_it_is_loaded(toys: Registry[object], installed: Path) -> None:
    assert "broken" in toys.names()
    assert "toy_of_tests" not in sys.modules
    assert toys.load("ours") is EditorError
    assert "toy_of_tests" not in sys.modules
    with pytest.raises(ImportError):
        toys.load("gone")


def test_another_package_registers_names_by_entry_points(
    toys: Registry[object], installed: Path
) -> None:
    assert toys.names() == ("broken", "gone", "other", "ours", "rolling", "spinning")
    spinning = toys.load("spinning")
    assert spinning is sys.modules["toy_of_tests"].Spinning
    assert toys.load("rolling") == 7


def test_our_own_name_is_never_taken_over(toys: Registry[object], installed: Path) -> None:
    assert toys.names().count("ours") == 1
    assert toys.load("ours") is EditorError


def test_names_of_a_package_that_is_not_installed_are_unknown(toys: Registry[object]) -> None:
    assert "spinning" not in toys.names()
    with pytest.raises(EditorError, match="no toy is called 'spinning'"):
        toys.load("spinning")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("spining", "spinning"), ("OTHER", "other"), ("stray", None), ("", None), ("../ours", "ours")],
)
def test_an_unknown_name_gets_the_nearest_and_all_known_ones(
    toys: Registry[object], installed: Path, name: str, nearest: str | None
) -> None:
    with pytest.raises(EditorError) as caught:
        toys.load(name)
    assert caught.value.message == f"no toy is called {name!r}"
    known = "known: broken, gone, other, ours, rolling, spinning"
    assert caught.value.hint == (f"did you mean {nearest!r}? {known}" if nearest else known)


METHOD = """
from dataclasses import dataclass

from editors.methods.spec import MethodSpec


@dataclass(frozen=True)
class ToySettings:
    steps: int = 3


SPEC = MethodSpec(
    name="toy",
    title="does nothing",
    reference="",
    routed=False,
    undo="retraining",
    cost="none",
    settings=ToySettings,
    implementation="toy_method:Toy",
)
"""
LISTED = """
import sys
sys.path.insert(0, sys.argv[1])
sys.argv[1:] = ["methods", "--json"]
from editcli.app import main
main()
"""


def test_a_method_of_another_package_is_one_of_the_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_method.py").write_text(METHOD)
    (tmp_path / "toy_method-1.0.dist-info").mkdir()
    (tmp_path / "toy_method-1.0.dist-info" / "entry_points.txt").write_text(
        "[editcli.methods]\ntoy = toy_method:SPEC\n"
    )
    others = METHODS.names()
    assert others == tuple(sorted(others))
    assert {"ft-m", "in-context", "wise"} <= {*others}
    monkeypatch.syspath_prepend(str(tmp_path))
    assert METHODS.names() == tuple(sorted([*others, "toy"]))
    assert METHODS.load("toy").all_settings({"steps": 5}) == {"steps": 5}
    with pytest.raises(EditorError, match="toy cannot take these settings: steps: must be"):
        METHODS.load("toy").all_settings({"steps": "many"})
    listed = subprocess.run(
        [sys.executable, "-c", LISTED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert '"method": "toy"' in listed.stdout
