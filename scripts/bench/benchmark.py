"""A benchmark of several parts, measured in one run or in several, and the page they make."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Kept = dict[str, Any]


def kept_in(path: Path) -> Kept:
    """What earlier runs have left, by part."""
    return json.loads(path.read_text()) if path.exists() else {}


def run(
    title: str,
    parts: Mapping[str, Callable[[], dict[str, Any]]],
    path: Path,
    page: Callable[[Kept], str],
) -> None:
    """Measure the parts that the command line names, keep them in ``path``, write the page."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--only", choices=list(parts), action="append", help="a part to measure")
    parser.add_argument("--page", action="store_true", help="write the page from what is kept")
    args = parser.parse_args()
    for name in [] if args.page else args.only or list(parts):
        print(name, file=sys.stderr, flush=True)
        found = parts[name]()
        kept = {**kept_in(path), name: found}  # read now: parts may be measured side by side
        path.write_text(json.dumps(kept, indent=1) + "\n")
        print(json.dumps(found), flush=True)
    path.with_suffix(".md").write_text(page(kept_in(path)))
