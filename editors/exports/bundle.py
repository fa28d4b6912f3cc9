"""The part of this library that answers prompts, as one module of source text.

The module needs torch and transformers only. It holds the modules of ``editors`` unchanged but for
the name of the package, which is the bundle's own: so it runs beside any installed ``editors``.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from editors.errors import EditorError

PACKAGE = "editors"
STAND_INS = {"editors.schema": "editors.exports.trusted_schema"}  # as pydantic may be missing

_IMPORT = re.compile(r"^(\s*(?:from|import) )editors\b", re.MULTILINE)
_NAMED = re.compile(r'"editors((?:\.\w+)+:\w+)"')  # a class that a registry loads by name

_LOADER = '''

class _Sources(MetaPathFinder, InspectLoader):
    """Imports the modules of this file."""

    def find_spec(self, name, path=None, target=None):
        if name not in SOURCES:
            return None
        return spec_from_loader(name, self, is_package=self.is_package(name))

    def is_package(self, name):
        return any(other.startswith(f"{name}.") for other in SOURCES)

    def get_source(self, name):
        return SOURCES[name]


if not any(getattr(finder, "package", "") == PACKAGE for finder in sys.meta_path):
    finder = _Sources()
    finder.package = PACKAGE
    sys.meta_path.append(finder)
'''


def bundle(roots: Iterable[str], version: str) -> str:
    """Python source of a module that can import the modules ``roots`` of this library, and all that
    they import, under the package name ``PACKAGE`` of the bundle. ``version``: of the library.

    Raises:
        EditorError: a root is not a module of this library.
    """
    sources = dict(sorted(_closure(roots).items()))
    digest = hashlib.sha256("\0".join([*sources, *sources.values()]).encode()).hexdigest()
    package = f"editors_{digest[:12]}"
    lines = [
        "# The modules below are those of editcli's library `editors`, Apache-2.0, as they answer",
        f"# prompts in release {version}. They need no other package than torch and transformers.",
        "import sys",
        "from importlib.abc import InspectLoader, MetaPathFinder",
        "from importlib.util import spec_from_loader",
        "",
        f'PACKAGE = "{package}"',
        "SOURCES = {}",
    ]
    for name, source in sources.items():
        renamed = _NAMED.sub(rf'"{package}\1"', _IMPORT.sub(rf"\g<1>{package}", source))
        lines += ["", f'SOURCES["{package}{name.removeprefix(PACKAGE)}"] = {_literal(renamed)}']
    return "\n".join(lines) + _LOADER


def _literal(source: str) -> str:
    """``source`` as a literal that can be read as the code that it is."""
    if "'''" in source or source.endswith(("'", "\\")):
        return repr(source)
    return f"r'''{source}'''"


def _closure(roots: Iterable[str]) -> dict[str, str]:
    """By name, the sources of ``roots``, of what they import, and of the packages around them."""
    sources: dict[str, str] = {}
    todo = [*roots]
    while todo:
        name = todo.pop()
        if name in sources:
            continue
        source = _source(STAND_INS.get(name, name))
        if source is None:
            raise EditorError(f"{name} is not part of {PACKAGE}, so it cannot be exported")
        sources[name] = source
        imported = {name.rpartition(".")[0], *_imports(source)} - {""}
        todo += [other for other in imported if _source(other) is not None]
    return sources


def _source(name: str) -> str | None:
    """The source of a module of this library; None for any other name."""
    if name.partition(".")[0] != PACKAGE:
        return None
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # a name in a module
        return None
    return Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else None


def _imports(source: str) -> Iterator[str]:
    """The names that ``source`` imports, anywhere but for types only: ``from a import b`` names
    ``a`` and ``a.b``."""
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        todo += ast.iter_child_nodes(node)
