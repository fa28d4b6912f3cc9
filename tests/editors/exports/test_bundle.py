"""The library as one module of source text."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from editors import EditorError
from editors.exports.bundle import bundle


def test_a_bundle_imports_its_modules_under_its_own_name(tmp_path: Path) -> None:
    source = bundle(["editors.facts"], "1.0")
    (tmp_path / "one.py").write_text(source)
    code = """
import sys, importlib
sys.modules.update(dict.fromkeys(("pydantic", "editors")))  # neither can be imported
import one
facts = importlib.import_module(one.PACKAGE + ".facts")
fact = facts.Fact.from_dict({"prompt": "a b", "target": "c", "aliases": ["d"], "note": None})
print(fact.prompt, fact.aliases, fact.id, sep="|")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    from editors import Fact

    assert done.stdout.strip() == f"a b|('d',)|{Fact('a b', 'c').id}"


def test_equal_sources_make_equal_bundles() -> None:
    assert bundle(["editors.errors"], "1.0") == bundle(["editors.errors"], "1.0")


def test_a_bundle_can_be_read() -> None:
    source = bundle(["editors.methods.edit_state"], "1.0")
    assert 'SOURCES["editors_' in source
    assert "\nclass EditState:\n" in source


def test_what_is_not_part_of_the_library_is_refused() -> None:
    with pytest.raises(EditorError, match="toy"):
        bundle(["toy_editcli_package"], "1.0")
