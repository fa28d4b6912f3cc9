"""Links between the pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "docs/*.md", "scripts/atlas/README.md")
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="docs are not there")
@pytest.mark.parametrize("pages", PAGES)
def test_every_relative_link_leads_to_a_file_or_folder(pages: str) -> None:
    found = sorted(ROOT.glob(pages))
    assert found
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in found
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken
