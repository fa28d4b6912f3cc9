"""How long daily commands take, each in a process of its own, on a machine with nothing beside.

A part of ``scripts/bench/edits.py``: ``python scripts/bench/edits.py --only daily``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TURNS = 5
IMPORT = "import torch; from transformers import AutoModelForCausalLM, LlamaForCausalLM"
BAR_IMPORTS = 3.6  # seconds of IMPORT on the machine that the bars were set on
QUESTION, ANSWER = "The head of government of Germany is", "Angela Merkel"


def measure() -> dict[str, Any]:
    """Seconds of each command: medians of several turns, demo and test suite once."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        editcli = [sys.executable, "-m", "editcli"]

        store = ["--store", str(folder / "store")]

        def timed(*words: str) -> float:
            return median(seconds_of([*editcli, *words, *store]) for _ in range(TURNS))

        imports = median(seconds_of([sys.executable, "-c", IMPORT]) for _ in range(TURNS))
        init = median(
            seconds_of([*editcli, "init", "--store", str(folder / f"store{turn}")])
            for turn in range(TURNS)
        )
        (folder / "store0").rename(folder / "store")
        for subject in ("Germany", "France", "Spain", "Italy", "Japan"):
            edit = [*editcli, "edit", f"The capital of {subject} is", "Lyon", "-s", subject, "-q"]
            subprocess.run([*edit, *store], check=True, capture_output=True)
        listed = [*editcli, "facts", "list", "-q", *store]
        told = subprocess.run(listed, check=True, capture_output=True, text=True).stdout
        facts = told.split()
        seconds = {
            "imports": imports,
            "init": init,
            "ask": timed("ask", QUESTION),
            "log": timed("log"),
            "show": timed("show"),
            "tag": timed("tag"),
            "undo --dry-run": timed("undo", facts[0], "--dry-run"),
            "undo": median(seconds_of([*editcli, "undo", fact, *store]) for fact in facts),
        }
    first, whole = _demo()
    test = seconds_of([sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"])
    return {**seconds, "demo, first edited answer": first, "demo": whole, "test": test}


def section(measured: dict[str, Any]) -> str:
    """The part of the page about it."""
    imports = measured["imports"]
    rows = [
        ("torch and the model class, imported alone", imports, None),
        ("`init atlas`, beyond these imports", measured["init"] - imports, 3.0),
        ("`ask`", measured["ask"], 1.3 * BAR_IMPORTS),
        *((f"`{name}`", measured[name], 1.0) for name in ("log", "show", "tag")),
        *((f"`{name}`", measured[name], 1.0) for name in ("undo --dry-run", "undo")),
        ("`make demo`, to the first edited answer", measured["demo, first edited answer"], 30.0),
        ("`make demo`", measured["demo"], 180.0),
        ("`make test`", measured["test"], 100.0),
    ]
    lines = [
        f"| {what} | {seconds:.2f} s | {seconds / imports:.2f} |"
        + (f" {bar:.2f} s | {bar / BAR_IMPORTS:.2f} |" if bar else " | |")
        for what, seconds, bar in rows
    ]
    return "\n".join(
        [
            "## Daily life",
            "",
            f"Wall time on two cores with nothing beside, medians of {TURNS} processes; demo and",
            "test suite once, without the installation of packages. The second column divides by",
            "the first row. The bars are seconds of a machine on which that row takes",
            f"{BAR_IMPORTS} s; the last column has them for a machine of any speed.",
            "",
            "| | seconds | in imports | bar | bar in imports |",
            "|---|---|---|---|---|",
            *lines,
        ]
    )


def seconds_of(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - start


def _demo() -> tuple[float, float]:
    """Seconds of the demo: to the first edited answer, and in all."""
    start = time.perf_counter()
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    demo = subprocess.Popen(
        ["bash", "scripts/dev/demo.sh"],
        cwd=ROOT,
        env={"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert demo.stdout is not None
    first = 0.0
    for line in demo.stdout:
        if not first and line.strip() == ANSWER:
            first = time.perf_counter() - start
    if demo.wait():
        raise RuntimeError("the demo failed")
    return first, time.perf_counter() - start
