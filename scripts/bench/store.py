"""Measure a store of a million facts and 10,000 versions of one fact; write docs/store-size.md.

    python scripts/bench/store.py                        # as in the document; takes minutes
    python scripts/bench/store.py --only "10000 facts"   # a small one

Nothing is trained: blobs are random bytes, as many and as large as those of a small model. Commands
are processes of their own, imports included. Each is run three times, and the median is told.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmark import Results, parser_of, run

from editcli.store.changes import Changes, NewBlob
from editcli.store.records import StoreConfig
from editcli.store.store import Store
from editors import Fact

EDITCLI = (sys.executable, "-m", "editcli")
RUNS = 3
FIRST = 1_000_000  # facts that are applied in one go
VERSIONS = 10_000  # of one fact each
PAGE = 200  # facts of a blob of the first version
BLOB_BYTES = 2048

FRAME = {
    "schema": 3,
    "method": "wise",
    "settings": {"profile": "separate"},
    "layer": 4,
    "modules": ["model.layers.4.mlp.down_proj"],
    "fingerprint": "f" * 64,
    "payload": {"scope": {"signal": "key", "calibrated": False}},
}
CONFIG = StoreConfig(
    base="none", fingerprint="f" * 64, method="wise", revision="", dtype="float32", seed=0,
    layer=4, settings={},
)  # fmt: skip

COMMANDS: dict[str, tuple[str, ...]] = {
    "log": ("log", "--limit", "20"),
    "show": ("show",),
    "diff": ("diff", "HEAD~100", "HEAD"),
    "facts list": ("facts", "list", "--limit", "50"),
    "facts list --match": ("facts", "list", "--match", "town number 777777 "),
    "undo --dry-run": ("undo", "--last", "--dry-run"),
    "verify": ("verify", "--no-base"),
    "verify --full": ("verify", "--no-base", "--full"),
}
BARS = dict.fromkeys(("publish", "log", "show", "diff", "facts list"), 1.0) | {"verify": 10.0}


def fact(number: int) -> Fact:
    subject = f"town number {number}"
    prompt = f"The mayor of {subject} in the province {number % 977} is"
    target = f"mayor {number * 7919 % 1_000_003}"
    return Fact(prompt, target, subject=subject, source="a registry")


def measure(first: int, versions: int, _: Results) -> dict[str, Any]:
    """Seconds of CPU time and bytes of memory of each command, and bytes of the store."""
    draw = random.Random(0)
    with TemporaryDirectory() as name:
        path = Path(name, "store")
        began = time.process_time()
        store = Store.create(path, CONFIG, Changes(blobs={"edits.json": _blob(FRAME)}))
        facts = [fact(number) for number in range(first)]
        blobs = {
            f"scope-keys-{start // PAGE:04d}.safetensors": NewBlob(
                draw.randbytes(BLOB_BYTES), (tuple(f.id for f in facts[start : start + PAGE]),)
            )
            for start in range(0, first, PAGE)
        }
        with store.writing() as change:
            change.publish("apply", Changes(facts, blobs=blobs))
        filled = time.process_time() - began
        before = _size(path)
        del facts, blobs
        seconds = [*_published(store, first, versions, draw)]
        grown = _size(path) - before
        commands = {key: _run([*words, "--store", str(path)]) for key, words in COMMANDS.items()}
    return {
        "facts": first,
        "versions": versions,
        "seconds_to_fill": round(filled, 1),
        "store_mb": round((before + grown) / 1e6, 1),
        "bytes_per_version": round(grown / versions),
        "publish": {
            "first": round(statistics.median(seconds[:100]), 4),
            "last": round(statistics.median(seconds[-100:]), 4),
            "slowest": round(max(seconds), 3),
        },
        "commands": commands,
    }


def _published(store: Store, first: int, versions: int, draw: random.Random) -> Iterator[float]:
    """The seconds of CPU time of each version: a new fact, and an older one that it supersedes."""
    for number in range(versions):
        new, old = fact(first + number), fact(number * first // versions)
        blobs = {
            f"shard-{number:04d}.safetensors": NewBlob(draw.randbytes(BLOB_BYTES), ((new.id,),)),
            f"scope-keys-{first // PAGE + number:04d}.safetensors": NewBlob(
                draw.randbytes(BLOB_BYTES), ((new.id,),)
            ),
        }
        began = time.process_time()
        with store.writing() as change:
            change.publish("edit", Changes([new], closed={old.id: new.id}, blobs=blobs), who="ann")
        yield time.process_time() - began


_MEASURED = """
import json, resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss // 1000]))
"""


def _run(words: Sequence[str]) -> dict[str, float]:
    """The median seconds of CPU time of a command, and its peak memory in megabytes."""
    seconds, memory = [], 0
    for _ in range(RUNS):
        asked = [sys.executable, "-c", _MEASURED, *EDITCLI, *words]
        done = subprocess.run(asked, check=True, capture_output=True, text=True)
        took, memory = json.loads(done.stdout)
        seconds.append(took)
    return {"seconds": round(statistics.median(seconds), 2), "mb": memory}


def _blob(record: dict[str, Any]) -> NewBlob:
    return NewBlob(json.dumps(record).encode())


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def page(results: Results) -> str:
    lines = [
        "# A large store",
        "",
        "Written by `scripts/bench/store.py` (`make bench-store`). A store is filled with facts in",
        "one version, and each further version adds one fact, closes another, and adds two blobs.",
        f"Nothing is trained; blobs are {BLOB_BYTES} random bytes. Commands are processes of their",
        f"own, imports included; medians of {RUNS}. Seconds are CPU time, as there was other work",
        "beside; bars are for a million facts and 10,000 versions.",
        "",
        "| facts | versions | what | seconds | bar | MB of memory |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for result in results.values():
        start = f"| {result['facts']:,} | {result['versions']:,} |"
        publish = result["publish"]
        lines.append(f"{start} publish, median of the last 100 | {publish['last']} | 1 | |")
        for name, told in result["commands"].items():
            bar = f"{BARS[name]:.0f}" if name in BARS else ""
            lines.append(f"{start} `{name}` | {told['seconds']} | {bar} | {told['mb']} |")
        notes.append(
            f"- {result['facts']:,} facts and {result['versions']:,} versions: "
            f"{result['store_mb']:,} MB in all, filled in {result['seconds_to_fill']} s; each "
            f"version adds {result['bytes_per_version']:,} bytes, its two blobs included; "
            f"publishing takes {publish['first']} s at first and {publish['last']} s at the end, "
            f"{publish['slowest']} s at most."
        )
    return "\n".join([*lines, "", *notes]) + "\n"


SIZES = {"10000 facts": (10_000, 300), "1000000 facts": (FIRST, VERSIONS)}
PARTS = {name: partial(measure, *sizes) for name, sizes in SIZES.items()}

if __name__ == "__main__":
    args = parser_of(__doc__.splitlines()[0], PARTS).parse_args()
    run(args, PARTS, args.only or list(PARTS), "store-size", page)
