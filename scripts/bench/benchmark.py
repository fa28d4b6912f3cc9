"""A benchmark of several parts, measured in one run or in several, and the page they make."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"

Results = dict[str, Any]
"""What was measured, by part."""

Parts = Mapping[str, Callable[[Results], dict[str, Any]]]
"""What measures each part; given what was saved before."""


def saved_results(path: Path) -> Results:
    """What earlier runs have left, by part."""
    return json.loads(path.read_text()) if path.exists() else {}


def parser_of(title: str, parts: Parts) -> argparse.ArgumentParser:
    """The command line that every benchmark has."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--only", choices=list(parts), action="append", help="a part to measure")
    parser.add_argument("--page", action="store_true", help="write the page from what is saved")
    parser.add_argument(
        "--folder", type=Path, default=DOCS, help="where results and page are written (docs)"
    )
    return parser


def run(
    args: argparse.Namespace,
    parts: Parts,
    chosen: Sequence[str],
    name: str,
    page: Callable[[Results], str],
) -> None:
    """Measure the ``chosen`` parts, save each in ``name``.json, and write ``name``.md."""
    results = args.folder / f"{name}.json"
    for part in () if args.page else chosen:
        print(part, file=sys.stderr, flush=True)
        measured = parts[part](saved_results(results))
        # Read now: parts may be measured side by side.
        saved = {**saved_results(results), part: measured}
        results.write_text(json.dumps(saved, indent=1) + "\n")
        print(json.dumps(measured), flush=True)
    results.with_suffix(".md").write_text(page(saved_results(results)))
