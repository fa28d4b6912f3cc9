"""Who may import whom, and what `--help` may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("editors/**/*.py"), *ROOT.glob("editcli/**/*.py")])
HEAVY = {"torch", "transformers", "safetensors", "huggingface_hub", "numpy"}
APPLICATION_ONLY = {"editcli", "typer", "rich", "jsonlines", "filelock"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes: Iterator[ast.AST] | list[ast.AST]) -> set[str]:
    """Dotted names that the import statements among `nodes` name, `from a import b` as `a.b`."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def everywhere(path: Path) -> set[str]:
    return imported(ast.walk(parse(path)))


def at_import_time(path: Path) -> set[str]:
    """Imports that run when the module is loaded: not in functions, not under TYPE_CHECKING."""

    def visit(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            yield child
            yield from visit(child)

    return imported(visit(parse(path)))


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


each_file = pytest.mark.parametrize("path", FILES, ids=name_of)
each_library_file = pytest.mark.parametrize(
    "path", [path for path in FILES if name_of(path).startswith("editors/")], ids=name_of
)
each_application_file = pytest.mark.parametrize(
    "path", [path for path in FILES if name_of(path).startswith("editcli/")], ids=name_of
)


@each_library_file
def test_the_library_knows_nothing_of_the_application(path: Path) -> None:
    assert not tops(everywhere(path)) & APPLICATION_ONLY


@each_library_file
def test_the_library_neither_prints_nor_asks_the_environment(path: Path) -> None:
    names = {node.id for node in ast.walk(parse(path)) if isinstance(node, ast.Name)}
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not names & {"print", "input"}
    assert not attributes & {"os.environ", "os.getenv", "os.getcwd", "Path.cwd", "torch.load"}


@each_application_file
def test_the_application_uses_public_names_of_the_library(path: Path) -> None:
    from_library = [name for name in everywhere(path) if name.partition(".")[0] == "editors"]
    assert not [name for name in from_library if name.startswith("editors.methods.")]
    assert not [name for name in from_library if any(p[0] == "_" for p in name.split("."))]


@each_application_file
def test_the_application_loads_no_heavy_library_when_imported(path: Path) -> None:
    assert not tops(at_import_time(path)) & HEAVY


@each_file
def test_nobody_imports_click_pickle_or_a_package_called_datasets(path: Path) -> None:
    assert not tops(everywhere(path)) & {"click", "pickle", "datasets"}


@pytest.mark.parametrize("layer", ["errors", "facts"])
def test_the_lowest_layers_import_only_each_other(layer: str) -> None:
    names = everywhere(ROOT / "editors" / f"{layer}.py")
    assert not tops(names) & HEAVY
    assert {n for n in names if n.startswith("editors.")} <= {"editors.errors.InvalidFact"}


def test_commands_are_on_top_of_everything_but_the_app() -> None:
    for path in FILES:
        if name_of(path).startswith("editcli/commands/"):
            assert not {n for n in everywhere(path) if n.startswith("editcli.app")}
        elif name_of(path) != "editcli/app.py":
            assert not {n for n in everywhere(path) if n.startswith("editcli.commands")}


def test_every_public_name_of_the_library_resolves() -> None:
    import editors

    assert all(getattr(editors, name) is not None for name in editors.__all__)
    assert sorted(editors.__all__) == editors.__all__
    with pytest.raises(AttributeError, match="no attribute 'Fakt'"):
        _ = editors.Fakt


def run(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def test_help_loads_no_torch_and_takes_less_than_half_a_second() -> None:
    code = """
import sys
sys.argv = ["editcli", "--help"]
from editcli.app import main
try:
    main()
finally:
    assert not {"torch", "transformers"} & set(sys.modules)
"""
    nothing = min(run("pass") for _ in range(3))
    help_ = min(run(code) for _ in range(3))
    assert help_ - nothing < 0.5
