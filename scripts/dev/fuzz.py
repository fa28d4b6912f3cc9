"""Feed damaged input to everything that reads, and report every traceback.

    python scripts/dev/fuzz.py --minutes 30
    python scripts/dev/fuzz.py --minutes 5 --only store --seed 7

A sound input of each reader is damaged at random: bytes are changed, cut, doubled and swapped;
values in JSON are replaced by others of any kind. A store is damaged in a file, or in a row whose
hashes are made to fit again, and every command that reads is called on it. Each call has to end
well, or with an error that names what is wrong. What raises anything else is written to --folder.
"""

from __future__ import annotations

import argparse
import collections
import csv
import io
import json
import os
import random
import shutil
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from set_samples import SAMPLES
from tiny_stores import CONFIG, PARIS, ROME, content, framed, run, shard, store_with_a_past

from editcli.files.conflicts import read_conflicts
from editcli.files.containers.opening import open_container
from editcli.files.conversion import Choices, FactRows
from editcli.files.facts import read_facts
from editcli.files.texts import read_texts
from editcli.models.adapters import adapter_in
from editcli.models.gguf_files import GgufFile
from editcli.models.locations import find_model
from editcli.store.changes import Changes
from editcli.store.files.journal import Journal
from editcli.store.records import StoreConfig
from editcli.store.tables import contents, history
from editcli.store.tables.recorder import leaf_of
from editors import EditorError

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 10**30, 1e308, 1.5),
    *("", "x", "\0", "\ud800", "é", " ", "../../x", "v0002", "f" * 64, "x" * 5000, "\x1b[2J"),
    *([], [[]], {}, {"": {}}, [1, "x", None], ["x"], [[1]], {"x": []}),
)
COMMANDS = (
    *("log", "log --json", "show", "show v0002 --json", "show v3", "diff HEAD~1 HEAD", "status"),
    *("facts list --state all", "facts list --match capital --json", "tag", "verify --no-base"),
    *("verify --no-base --full --json", "report page.html --force", "gc --dry-run"),
    *("undo --last --dry-run", f"undo {ROME.id} --dry-run", f"show {PARIS.id}", "migrate"),
    *("checkout v2", "tag new", "compact --dry-run", "undo --last"),
)


class Damage:
    """Damages inputs at random."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def bytes(self, data: bytes) -> bytes:
        held = bytearray(data)
        for _ in range(self.chance.choice((1, 1, 2, 5))):
            place = self.chance.randrange(len(held) + 1)
            some = held[place : place + self.chance.choice((1, 4, 30))]
            kind = self.chance.randrange(6)
            if kind == 0 and held:
                held[place % len(held)] = self.chance.randrange(256)
            elif kind == 1:
                del held[place:]
            elif kind == 2:
                held[place : place + len(some)] = b""
            elif kind == 3:
                held[place:place] = some * self.chance.choice((1, 3, 2000))
            elif kind == 4:
                held[place:place] = self.chance.randbytes(4)
            elif held:
                held[place % len(held)] ^= 1 << self.chance.randrange(8)
        return bytes(held)

    def value(self, value: Any) -> Any:
        """A JSON value with something in it replaced, removed, added or nested."""
        if self.chance.random() < 0.25 or not (isinstance(value, dict | list) and value):
            return self.chance.choice(VALUES)
        value = value.copy()
        key = self.chance.choice([*value] if isinstance(value, dict) else range(len(value)))
        kind = self.chance.randrange(6)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict):
            value[self.chance.choice(("x", "", "\ud800", "id", "x_y", key + " "))] = value[key]
        else:
            value[key] = self.value(value[key])
        return value

    def json(self, value: Any) -> bytes:
        """A damaged value as text, which may be damaged itself."""
        text = json.dumps(self.value(value)).encode()
        kind = self.chance.randrange(12)
        if kind == 0:
            return self.bytes(text)
        if kind == 1:
            return text.replace(b"7", b"9" * 5000).replace(b'""', b"[" * 50_000)
        return text

    def lines(self, rows: list[Any]) -> bytes:
        """JSON Lines, of which one is damaged."""
        lines = [json.dumps(row).encode() for row in rows]
        place = self.chance.randrange(len(lines))
        lines[place] = self.json(rows[place])
        ending = self.chance.choice((b"\n", b"\n", b"\r\n", b"\n\n", b"\x0b"))
        return ending.join(lines)


# Each of these yields what it reads, and what reads it.
Calls = Iterator[tuple[bytes, Callable[[], object]]]


def of_config(damage: Damage, folder: Path) -> Calls:
    sound = CONFIG.to_toml()
    while True:
        data = damage.bytes(sound)
        if damage.chance.random() < 0.2:
            data = sound.replace(b"0", damage.chance.choice((b"9" * 5000, b"[" * 9999, b"{a=1}")))
        yield data, lambda data=data: StoreConfig.from_toml(data)  # type: ignore[misc]


def of_history(damage: Damage, folder: Path) -> Calls:
    events = [event for event, _ in store_with_a_past(folder / "past").history()]
    while True:
        event = damage.chance.choice(events)
        line = damage.json(json.loads(event.to_line())).decode(errors="replace")
        row = (*event.columns(), line, sha256(line.encode(errors="replace")).hexdigest())
        yield line.encode(errors="replace"), lambda row=row: history.read_row(*row)  # type: ignore[misc]


def of_records(damage: Damage, folder: Path) -> Calls:
    fact = {"id": PARIS.id, **PARIS.to_dict()}
    note = {"message": "x", "tools": {"a": "1"}, "extra": {}}
    while True:
        kind, record = damage.chance.choice((("fact", fact), ("note", note), ("scores", note)))
        body = damage.json(record).decode(errors="replace")
        if kind == "fact":
            leaf = leaf_of(kind, PARIS.id, None, "s", body)
            call = lambda b=body, leaf=leaf: contents.read_fact(PARIS.id, "s", b, leaf)  # type: ignore[misc]  # noqa: E731
        else:
            leaf = leaf_of(kind, None, None, "s", body)
            call = lambda b=body, k=kind, leaf=leaf: contents.read_told(k, "s", b, leaf)  # type: ignore[misc]  # noqa: E731
        yield body.encode(errors="replace"), call


def of_journal(damage: Damage, folder: Path) -> Calls:
    journal = Journal(folder)
    journal.put("ab", b"payload")
    sound = (folder / "ab").read_bytes()
    while True:
        data = damage.bytes(sound)
        (folder / "ab").write_bytes(data)
        yield data, lambda: journal.get("ab")


def of_facts(damage: Damage, folder: Path) -> Calls:
    path = folder / "file"
    while True:
        name = damage.chance.choice(sorted(SAMPLES))
        rows = [SAMPLES[name][0]] * 3
        end = damage.chance.choice((".jsonl", ".json", ".csv", ".tsv", ".xlsx"))
        data = damage.lines(rows)
        if end == ".json":
            data = damage.json(rows) if damage.chance.random() < 0.8 else damage.bytes(data)
        elif end in (".csv", ".tsv", ".xlsx"):
            data = damage.bytes(_table(rows, end))
        file = path.with_suffix(end)
        file.write_bytes(data)

        def read(file: Path = file, name: str = name) -> None:
            for choices in (Choices(None, "alt", {}), Choices(name, "gold", {})):
                with suppress(EditorError):
                    for _ in FactRows(open_container(str(file)), choices).facts():
                        pass
            facts = read_facts(str(file))
            [*facts.findings(), *facts.remarks(), *facts.facts]
            facts.require()

        yield data, read


def _table(rows: list[Any], end: str) -> bytes:
    flat = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
    if end == ".xlsx":
        import openpyxl

        book, data = openpyxl.Workbook(), io.BytesIO()
        for row in ([*flat[0]], *(list(row.values()) for row in flat)):
            book.active.append(row)
        book.save(data)
        return data.getvalue()
    text = io.StringIO()
    writer = csv.DictWriter(text, [*flat[0]], delimiter="\t" if end == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue().encode()


def of_conflicts(damage: Damage, folder: Path) -> Calls:
    row = {
        "question": "the sea of Spain is", "context": "the sea of Spain is red .",
        "subject": "Spain", "context_answer": "red", "memory_answer": "blue",
        "relation": "sea", "split": "dev",
    }  # fmt: skip
    file = folder / "c.jsonl"
    while True:
        data = damage.lines([row, row])
        file.write_bytes(data)

        def read() -> None:
            with suppress(EditorError):
                read_texts(str(file))
            found = read_conflicts(str(file), skip_bad=True)
            found.chosen("all", 2)
            found.require_splits()

        yield data, read


def of_adapters(damage: Damage, folder: Path) -> Calls:
    config = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none",
        "base_model_name_or_path": "../base", "task_type": "CAUSAL_LM", "revision": None,
    }  # fmt: skip
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "base" / "model.safetensors").write_bytes(b"x")
    home = folder / "adapter"
    home.mkdir()
    (home / "adapter_model.safetensors").write_bytes(b"x")
    while True:
        data = damage.json(config)
        (home / "adapter_config.json").write_bytes(data)
        yield data, lambda: adapter_in(find_model(str(home)), "")


def of_gguf(damage: Damage, folder: Path) -> Calls:
    import gguf
    import numpy as np

    file = folder / "m.gguf"
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("token_embd.weight", np.zeros((2, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    sound = file.read_bytes()
    while True:
        data = damage.bytes(sound)
        file.write_bytes(data)

        def read() -> None:
            found = GgufFile.open(file)
            _ = found.vocabulary_size
            found.write_outline(folder / "outline.gguf")

        yield data, read


def of_stores(damage: Damage, folder: Path) -> Calls:
    """Whole stores, read by every command."""
    made = folder / "made"
    store = store_with_a_past(made)
    with store.writing() as change:
        gone = {"shard-0000.safetensors": None}
        change.purge([ROME.id], Changes(blobs=gone))
        change.publish("edit", Changes([ROME], blobs={**framed(), **shard(2, [ROME])}))
        rates = {"reliability": 1.0, "ci95": {"reliability": [0.9, 1.0]}, "n": {"reliability": 3}}
        scores = {"of": "facts in force", "facts": 3, "forms": {"plain": rates}}
        change.record_scores(store.head(), scores)
    path = folder / ".editcli"
    os.chdir(folder)
    while True:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(made, path)
        if damage.chance.random() < 0.6:
            _damage_rows(damage, path / "store.db")
        else:
            files = [file for file in path.rglob("*") if file.is_file()]
            file = damage.chance.choice(files)
            file.write_bytes(damage.bytes(file.read_bytes()))
        words = damage.chance.choice(COMMANDS).split()
        data = json.dumps([words, {n: d.hex() for n, d in content(path).items()}]).encode()

        def read(words: list[str] = words) -> None:
            result = run(*words)
            if result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception

        yield data, read


def _damage_rows(damage: Damage, database: Path) -> None:
    """Change something in a row, and mostly make leaves and hashes fit again."""
    with closing(sqlite3.connect(database)) as base, base:
        if damage.chance.random() < 0.5:
            (key,) = damage.chance.choice(base.execute("SELECT key FROM record").fetchall())
            column = damage.chance.choice(("kind", "entry", "other", "name", "digest", "body"))
            (old,) = base.execute(f"SELECT {column} FROM record WHERE key = ?", (key,)).fetchone()
            value: Any = damage.chance.choice([v for v in VALUES if isinstance(v, str | int)])
            if column == "body" and old and damage.chance.random() < 0.8:
                value = damage.json(json.loads(old)).decode(errors="replace")
            elif column in ("entry", "other"):
                value = damage.chance.choice((None, 0, 1, 2, 3, 5, 99, 2**62, -1))
            if isinstance(value, str):
                value = value.encode(errors="replace").decode()
            elif isinstance(value, int) and abs(value) >= 2**63:
                value = 0
            base.execute(
                f"UPDATE record SET {column} = ? WHERE key = ?",
                (str(value) if column in ("kind", "name", "digest", "body") else value, key),
            )
        if damage.chance.random() < 0.9:
            _rehash(damage, base)


def _rehash(damage: Damage, base: sqlite3.Connection) -> None:
    rows = "SELECT kind, name, digest, salt, body, entry, other, key, leaf FROM record"
    for *row, key, leaf in base.execute(rows).fetchall():
        if row[3] is not None or row[0] not in ("fact", "note", "scores"):  # else it was purged
            leaf = leaf_of(*row)
        base.execute("UPDATE record SET leaf = ? WHERE key = ?", (leaf, key))
    chosen = damage.chance.randrange(1, 12)
    previous = history.GENESIS
    for seq, line in base.execute("SELECT seq, line FROM event ORDER BY seq").fetchall():
        leaves = base.execute("SELECT leaf FROM record WHERE event = ? ORDER BY key", (seq,))
        record = {**json.loads(line), "previous": previous}
        record["content"] = sha256(b"".join(leaf for (leaf,) in leaves)).hexdigest()
        changed = damage.value(record) if seq == chosen else record
        if not isinstance(changed, dict):
            changed = record
        text = json.dumps(changed)
        previous = sha256(text.encode()).hexdigest()
        parent, tag = changed.get("parent"), changed.get("tag")
        fits = isinstance(parent, str) and parent[:1] == "v" and parent[1:].isdigit()
        number = int(parent[1:]) if fits and len(str(parent)) < 19 else None
        tag = tag.encode(errors="replace").decode() if isinstance(tag, str) and tag else None
        base.execute(
            "UPDATE event SET parent = ?, tag = ?, line = ?, hash = ? WHERE seq = ?",
            (number, tag, text, previous, seq),
        )


READERS: dict[str, Callable[[Damage, Path], Calls]] = {
    "config.toml": of_config,
    "history": of_history,
    "records": of_records,
    "journal": of_journal,
    "facts": of_facts,
    "conflicts": of_conflicts,
    "adapters": of_adapters,
    "gguf": of_gguf,
    "store": of_stores,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Feed damaged input to everything that reads.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", choices=list(READERS), action="append", help="what reads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("fuzz-found"))
    args = parser.parse_args()
    found_in = args.folder.absolute()
    end = time.monotonic() + 60 * args.minutes
    tried: collections.Counter[str] = collections.Counter()
    refused: collections.Counter[str] = collections.Counter()
    found: dict[str, int] = {}
    with TemporaryDirectory() as name:
        os.environ["EDITCLI_CACHE"] = name
        calls = {}
        for reader in args.only or READERS:
            folder = Path(name, reader)
            folder.mkdir()
            chance = random.Random(f"{args.seed} {reader}")
            calls[reader] = READERS[reader](Damage(chance), folder)
        while time.monotonic() < end:
            for reader, some in calls.items():
                turn = time.monotonic() + 1
                while time.monotonic() < turn:
                    data, call = next(some)
                    tried[reader] += 1
                    try:
                        call()
                    except EditorError:
                        refused[reader] += 1
                    except Exception as error:
                        last = traceback.extract_tb(error.__traceback__)[-1]
                        place = f"{type(error).__name__} {last.filename}:{last.lineno}"
                        found[place] = found.get(place, 0) + 1
                        if found[place] == 1:
                            found_in.mkdir(exist_ok=True)
                            (found_in / f"{reader}-{len(found)}").write_bytes(data)
                            print(reader, place, file=sys.stderr)
                            traceback.print_exc()
                            sys.stderr.flush()
        os.chdir("/")
    print(json.dumps({"tried": tried, "refused": refused, "found": found}, indent=1))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
