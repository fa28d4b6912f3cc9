"""Pages in docs that are made of others say what these say."""

from __future__ import annotations

from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.skipif(not DOCS.is_dir(), reason="docs are not there")
def test_the_page_of_benchmarks_ends_with_its_notes() -> None:
    page, notes = (DOCS / name for name in ("benchmarks.md", "benchmarks-notes.md"))
    assert page.read_text(encoding="utf-8").endswith(notes.read_text(encoding="utf-8"))
