"""The order of the folders: who may import whom. Type-only imports count."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("editors/**/*.py"), *ROOT.glob("editcli/**/*.py")])

LIBRARY = (
    "editors.errors editors.text_matching editors.schema editors.facts editors.plugins",
    "editors.model",
    "editors.inference",
    "editors.heads",
    "editors.scope",
    "editors.methods",
    "editors.evaluation",
    "editors.conflicts",
    "editors.exports",
)
APPLICATION = (
    "editcli.exit_codes editcli.errors editcli.settings editcli.wording",
    "editcli.store",
    "editcli.files",
    "editcli.models",
    "editcli.cli",
    "editcli.operations editcli.report",
    "editcli.serve",
    "editcli.commands",
    "editcli.app editcli.__main__",
)
"""Rooms, the lowest first; a room may import those above it in the list. Rooms of one line are
small modules, in order."""

ORDER = [room for line in (*LIBRARY, *APPLICATION) for room in line.split()]
FACADES = ("editors", "editcli")  # `from editors import Fact`, and the version

HEAVY = {"torch", "transformers", "safetensors", "huggingface_hub", "numpy"}
APPLICATION_ONLY = {"editcli", "typer", "rich", "filelock", "jinja2", "tomli_w"}
APPLICATION_ONLY |= {"prompt_toolkit", "fastapi", "starlette", "uvicorn", "httpx"}
# What can be read, listed, explained and taken back without a model.
WITHOUT_TENSORS = (
    *("editors", "editors.errors", "editors.text_matching", "editors.schema", "editors.facts"),
    *("editors.text_matching.names", "editors.methods.aliases"),
    *("editors.plugins", "editors.heads.pruning", "editors.conflicts.cases"),
    *("editors.scope.settings", "editors.scope.phrasings", "editors.methods.spec"),
    *("editors.model.saved_payload", "editors.methods.edit_state", "editors.methods.registry"),
    *("editors.methods.wise", "editors.methods.wise.settings"),
    *("editors.methods.in_context", "editors.methods.ft_m"),
)


def name_of(path: Path) -> str:
    """The module's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Dotted names that the import statements among `nodes` name, `from a import b` as `a.b`."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def everywhere(module: str) -> set[str]:
    """All that a module imports, for types only or inside functions, too."""
    return imported(ast.walk(parse(MODULES[module])))


@cache
def at_import_time(module: str) -> set[str]:
    """Imports that run when the module is loaded: not in functions, not under TYPE_CHECKING."""

    def visit(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            yield child
            yield from visit(child)

    return imported(visit(parse(MODULES[module])))


def module_of(name: str) -> str | None:
    """The module of ours that an imported name belongs to; None for anything else."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


@cache
def neighbours(module: str) -> set[str]:
    """The modules of ours that a module imports, for types only too; not the facades."""
    found = {module_of(name) for name in everywhere(module)}
    return {name for name in found if name and name != module} - set(FACADES)


def room_of(module: str) -> str | None:
    """The room that a module is in; None for the facades."""
    return next((r for r in ORDER if module == r or module.startswith(f"{r}.")), None)


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


each_module = pytest.mark.parametrize("module", sorted(set(MODULES) - set(FACADES)))
each_library_module = pytest.mark.parametrize(
    "module", [module for module in MODULES if tops({module}) == {"editors"}]
)
each_application_module = pytest.mark.parametrize(
    "module", [module for module in MODULES if tops({module}) == {"editcli"}]
)


# --- the order ------------------------------------------------------------------------------------


@each_module
def test_a_module_is_in_a_room_and_imports_no_room_above(module: str) -> None:
    room = room_of(module)
    assert room is not None, "name its folder in the order of rooms"
    above = {
        other
        for other in neighbours(module)
        if ORDER.index(str(room_of(other))) > ORDER.index(room)
    }
    assert not above


def test_no_module_imports_itself_by_way_of_others() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for other in sorted(neighbours(module)):
                visit(other, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@each_library_module
def test_the_library_knows_nothing_of_the_application(module: str) -> None:
    assert not tops(everywhere(module)) & APPLICATION_ONLY


@pytest.mark.parametrize("method", ["wise", "in_context", "ft_m"])
def test_nobody_knows_the_inside_of_a_method_but_the_method(method: str) -> None:
    inside = f"editors.methods.{method}"
    knowing = {
        module
        for module in MODULES
        if not module.startswith(inside)
        and any(other == inside or other.startswith(f"{inside}.") for other in neighbours(module))
    }
    assert not knowing, "ask the method, or its spec"


@each_application_module
def test_the_application_uses_public_names_of_the_library(module: str) -> None:
    from_library = [name for name in everywhere(module) if name.partition(".")[0] == "editors"]
    assert not [name for name in from_library if any(p[0] == "_" for p in name.split("."))]


# --- what importing costs -------------------------------------------------------------------------


@each_application_module
def test_the_application_loads_no_heavy_library_when_imported(module: str) -> None:
    reached, todo = set(), {module}
    while todo:
        reached |= todo
        names = {name for one in todo for name in at_import_time(one)}
        assert not tops(names) & HEAVY, todo
        todo = {m for m in map(module_of, names) if m and m not in FACADES} - reached


def test_what_needs_no_tensor_loads_no_tensor_library() -> None:
    code = f"""
import sys
from importlib import import_module
for module in {WITHOUT_TENSORS}:
    import_module(module)
    loaded = {HEAVY} & set(sys.modules)
    assert not loaded, (module, loaded)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_costs_little_more_than_typer_itself() -> None:
    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    ask = "import sys; sys.argv = ['app', '--help']; "
    ours = ask + "from editcli.app import main; main()"
    bare = ask + "import typer; typer.run(lambda: None)"
    # The smallest of several: a busy machine adds time to either side, never takes it away.
    rounds = [(seconds(ours), seconds(bare)) for _ in range(3)]
    ours_s, bare_s = map(min, zip(*rounds, strict=True))
    assert ours_s < 3 * bare_s


# --- manners --------------------------------------------------------------------------------------


@each_library_module
def test_the_library_neither_prints_nor_asks_the_environment(module: str) -> None:
    tree = parse(MODULES[module])
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not names & {"print", "input"}
    assert not attributes & {"os.environ", "os.getenv", "os.getcwd", "Path.cwd", "torch.load"}


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_click_pickle_or_a_package_called_datasets(module: str) -> None:
    assert not tops(everywhere(module)) & {"click", "pickle", "datasets"}


def test_every_room_says_in_a_sentence_what_it_is_for() -> None:
    rooms = [path for path in FILES if path.name == "__init__.py"]
    silent = [name_of(path) for path in rooms if not ast.get_docstring(parse(path))]
    assert not silent


def test_no_room_is_crowded_and_no_file_is_endless() -> None:
    entries = {
        folder: [e for e in folder.iterdir() if e.name[:2] != "__" and e.name[0] != "."]
        for folder in {path.parent for path in FILES}
    }
    crowded = {name_of(f / "__init__.py"): len(e) for f, e in entries.items() if len(e) > 14}
    assert not crowded
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_every_public_name_of_the_library_resolves() -> None:
    import editors

    assert all(getattr(editors, name) is not None for name in editors.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Fakt'"):
        _ = editors.Fakt
