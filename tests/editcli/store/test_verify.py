"""Damage is named: any change of a row, a blob, the configuration or the file itself.

Each change is made to a copy of one store that holds every kind of record.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tiny_stores import CONFIG, PARIS, PARIS_AGAIN, ROME, framed, shard

from editcli.store import integrity
from editcli.store.changes import Changes, NewBlob
from editcli.store.files.digests import Digests
from editcli.store.files.layout import Layout
from editcli.store.store import Store
from editors import EditorError, Fact

OSLO = Fact("The capital of Norway is", "Bergen", id="norway")

READ_ALL = Digests(None, trusts_cache=False)


@pytest.fixture(scope="module")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with every kind of event and record. Nothing may change it."""
    store = Store.create(tmp_path_factory.mktemp("specimen") / "s", CONFIG, Changes(blobs=framed()))
    with store.writing() as change:
        change.publish("apply", Changes([PARIS, ROME], blobs=shard(0, [PARIS, ROME])), who="ann")
        closed: dict[str, str | None] = {PARIS.id: PARIS_AGAIN.id}
        change.publish("edit", Changes([PARIS_AGAIN], closed=closed, blobs=shard(1, [PARIS_AGAIN])))
        (rome, _) = store.in_force(store.head())
        for _ in range(2):  # the same fact comes back twice
            change.publish("undo", Changes(closed={ROME.id: None}), message="Milan was wrong")
            change.publish("undo", Changes(again=[rome.text]))
        change.publish("edit", Changes([OSLO], blobs=shard(2, [OSLO])), message="about Bergen")
        gone = {"shard-0002.safetensors": None, "shard-0001.safetensors": None}
        change.purge([OSLO.id], Changes(closed={OSLO.id: None}, blobs=gone))
        change.tag("good", "v0003", who="bob", message="tested")
        change.move_head("v3")
        change.delete_tag("good")
    assert store.verify() == []
    return store.path


@pytest.fixture
def copy(specimen: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(specimen, tmp_path / "s"))


def found(path: Path) -> list[str]:
    """What is said of the store when it is opened or verified."""
    try:
        return [f"{problem.what}: {problem.detail}" for problem in Store.open(path).verify()]
    except EditorError as error:
        return [error.message]


def execute(path: Path, statement: str, *values: object) -> int:
    """Run a statement on the database of a store; returns how many rows it changed."""
    with closing(sqlite3.connect(path / "store.db", isolation_level=None)) as base:
        base.execute("PRAGMA writable_schema = ON")
        return base.execute(statement, values).rowcount


def rows(path: Path, table: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path / "store.db")) as base:
        base.row_factory = sqlite3.Row
        return [dict(row) for row in base.execute(f"SELECT rowid AS id, * FROM {table}")]


def assert_each_is_named(path: Path, changes: list[tuple[str, tuple[object, ...]]]) -> None:
    """Make each change to the database by itself; every one must be named."""
    whole = (path / "store.db").read_bytes()
    missed = []
    for statement, values in changes:
        try:
            changed = execute(path, statement, *values)
        except sqlite3.IntegrityError:  # the database itself refuses it
            changed = 0
        if changed and not found(path):
            missed.append((statement, values))
        (path / "store.db").write_bytes(whole)
    assert missed == []
    assert found(path) == []


OTHERS: dict[type, Callable[[Any], list[object]]] = {
    int: lambda value: [value + 1, value - 1, -value, 0, 2**62, None],
    str: lambda value: [value + "x", value[:-1], "", "x" + value[1:], value.swapcase(), None],
    bytes: lambda value: [value[:-1] + bytes([value[-1] ^ 1]), b"", None],
    type(None): lambda value: [0, 1, 3, "", "x", "0" * 64, '{"message": ""}'],
}


@pytest.mark.parametrize("table", ["event", "record"])
def test_any_other_value_in_any_column_of_any_row_is_named(copy: Path, table: str) -> None:
    changes = [
        (f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (other, row["id"]))
        for row in rows(copy, table)
        for column, value in row.items()
        if column != "id"
        for other in random.Random(row["id"]).sample(OTHERS[type(value)](value), 1)
        if other != value
    ]
    assert len(changes) > 40
    assert_each_is_named(copy, changes)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["event", "record"])
def test_every_other_value_in_any_column_of_any_row_is_named(copy: Path, table: str) -> None:
    values: dict[str, list[object]] = {}
    for row in rows(copy, table):
        for column, value in row.items():
            values.setdefault(column, []).append(value)
    changes = [
        (f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (other, row["id"]))
        for row in rows(copy, table)
        for column, value in row.items()
        if column != "id"
        for other in {*OTHERS[type(value)](value), *values[column][:40]}
        if other != value
    ]
    assert len(changes) > 900
    assert_each_is_named(copy, changes)


def test_a_row_that_is_gone_doubled_or_out_of_place_is_named(copy: Path) -> None:
    changes: list[tuple[str, tuple[object, ...]]] = []
    for table, key in (("event", "seq"), ("record", "key")):
        own = rows(copy, table)
        columns = ", ".join(column for column in own[0] if column not in ("id", key))
        for row in own:
            number = row["id"]
            changes += [
                (f"DELETE FROM {table} WHERE {key} = ?", (number,)),
                (f"UPDATE {table} SET {key} = {key} + 1000 WHERE {key} >= ?", (number,)),
                (f"UPDATE {table} SET {key} = -{key} WHERE {key} = ?", (number,)),
            ]
        last = len(own) + 1
        for number in (1, 2, last - 1):
            copied = f"INSERT INTO {table} ({key}, {columns}) SELECT ?, {columns} FROM {table}"
            changes.append((f"{copied} WHERE {key} = ?", (last, number)))
    swapped = "UPDATE record SET key = CASE key WHEN ?1 THEN -1 ELSE key END WHERE key IN (?1, ?2)"
    changes += [(swapped, (number, number + 1)) for number in range(1, len(rows(copy, "record")))]
    changes += [("DELETE FROM event", ()), ("DELETE FROM record", ())]
    assert_each_is_named(copy, changes)


def test_two_records_that_changed_places_are_named(copy: Path) -> None:
    whole = (copy / "store.db").read_bytes()
    last = len(rows(copy, "record"))
    for one in range(1, last):
        for other in {one + 1, last} - {one}:
            for key, place in ((one, -1), (other, one), (-1, other)):
                execute(copy, "UPDATE record SET key = ? WHERE key = ?", place, key)
            assert found(copy), (one, other)
            (copy / "store.db").write_bytes(whole)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP INDEX record_entry",
        "DROP INDEX record_name",
        "CREATE INDEX more ON record (body)",
        "CREATE TABLE more (x)",
        "CREATE VIEW more AS SELECT * FROM record",
        "CREATE TRIGGER more AFTER INSERT ON record BEGIN DELETE FROM event; END",
        "CREATE TRIGGER event AFTER INSERT ON record BEGIN DELETE FROM event; END",
        "ALTER TABLE record ADD COLUMN more TEXT",
        "ALTER TABLE record RENAME TO records",
        "ALTER TABLE event RENAME COLUMN tag TO label",
        "DROP TABLE event",
        "UPDATE sqlite_schema SET sql = replace(sql, 'salt TEXT', 'salt ANY')",
        "UPDATE sqlite_schema SET sql = replace(sql, ' WHERE entry IS NOT NULL', '')",
        "UPDATE sqlite_schema SET type = 'view' WHERE name = 'record'",
        "DELETE FROM sqlite_schema WHERE name = 'record_other'",
        "ANALYZE",
        "PRAGMA journal_mode = WAL",
    ],
)
def test_a_database_of_another_shape_is_no_store(copy: Path, statement: str) -> None:
    execute(copy, statement)
    assert found(copy)
    with pytest.raises(EditorError), Store.open(copy).writing() as change:
        change.publish("edit", Changes())
    with pytest.raises(EditorError):
        Store.open(copy).head()


def test_an_index_that_leaves_a_row_out_is_named(copy: Path) -> None:
    whole = (copy / "store.db").read_bytes()
    execute(copy, "UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'record_entry'")
    assert found(copy)
    (copy / "store.db").write_bytes(whole)
    # Bytes of an index page alone: the rows are as they were.
    (root,) = (r["rootpage"] for r in rows(copy, "sqlite_schema") if r["name"] == "record_name")
    data = bytearray(whole)
    place = data.index(ROME.id.encode(), (root - 1) * 4096, root * 4096)
    data[place] ^= 1
    (copy / "store.db").write_bytes(data)
    assert any("index" in text for text in found(copy))


def test_no_byte_of_a_file_changes_unseen(copy: Path, specimen: Path) -> None:
    """Whatever byte of a file is another, it is named, or all that can be read is as it was."""

    def told(path: Path) -> object:
        store = Store.open(path)
        versions = store.versions()
        return (
            (versions, store.history(), store.refs()),
            [[*store.in_force(version)] for version in versions],
            [store.blobs(version) for version in versions],
            [store.changes(event.seq) for event, _ in store.history()],
        )

    intact, chance = told(specimen), random.Random(0)
    unseen = 0
    for file in sorted(path for path in copy.rglob("*") if path.is_file()):
        if file.name.startswith(".git") or file.name == "lock":
            continue
        whole = file.read_bytes()
        flips = 60 if file.name == "store.db" else 6
        for _ in range(flips):
            data = bytearray(whole)
            data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
            file.write_bytes(data)
            if not found(copy):
                assert file.name == "store.db"
                assert told(copy) == intact
                unseen += 1
        for cut in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:cut])
            if whole:
                assert found(copy)
        file.write_bytes(whole)
    assert found(copy) == []
    assert unseen > 0  # much of a page is empty


@pytest.mark.parametrize("missing", ["store.db", "config.toml", "blobs"])
def test_a_missing_part_is_named(copy: Path, missing: str) -> None:
    part = copy / missing
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    assert any("missing" in text or "no such file" in text for text in found(copy))


def test_another_configuration_is_named(copy: Path) -> None:
    file = copy / "config.toml"
    file.write_bytes(file.read_bytes().replace(b"seed = 0", b"seed = 1"))
    assert found(copy) == ["config.toml: seed is 1, and 0 is recorded"]
    file.write_bytes(replace(CONFIG, base="other").to_toml())
    assert found(copy) == ['config.toml: base is "other", and "atlas" is recorded']


def test_every_blob_that_is_missing_damaged_or_no_file_is_named(copy: Path) -> None:
    for path in sorted((copy / "blobs").iterdir()):
        whole = path.read_bytes()
        for bad in (b"", whole[:-1], whole + b"\0", b"x" * len(whole)):
            path.write_bytes(bad)
            (text,) = found(copy)
            assert text.startswith(f"blobs/{path.name}: is damaged")
        path.unlink()
        (text,) = found(copy)
        assert text.startswith(f"blobs/{path.name}: is missing")
        path.mkdir()
        (text,) = found(copy)
        assert text.startswith(f"blobs/{path.name}: cannot be read")
        path.rmdir()
        path.write_bytes(whole)
    assert found(copy) == []


def test_two_blobs_that_changed_places_are_named(copy: Path) -> None:
    one, other = sorted((copy / "blobs").iterdir())[:2]
    aside = one.rename(copy / "aside")
    other.rename(one)
    aside.rename(other)
    assert len(found(copy)) == 2


@pytest.mark.parametrize("name", ["notes.txt", "lost+found", "A" * 64, "0" * 63])
def test_a_blob_of_no_one_is_named(copy: Path, name: str) -> None:
    if name == "lost+found":
        (copy / "blobs" / name).mkdir()
    else:
        (copy / "blobs" / name).write_bytes(b"x")
    assert found(copy) == [f"blobs/{name}: is not a blob"]


def test_what_a_killed_process_leaves_is_no_damage(copy: Path) -> None:
    for folder in (copy, copy / "blobs", copy / "journal"):
        (folder / f".tmp-{'0' * 16}").write_bytes(b"half")
    stray = copy / "blobs" / sha256(b"0").hexdigest()
    stray.write_bytes(b"0")
    (copy / "journal" / "ab").write_bytes(b"half of an entry")
    (copy / "lock.json").write_bytes(b"{")
    (copy / "store.db-journal").write_bytes(b"")
    assert found(copy) == []
    with Store.open(copy).writing() as change:
        change.publish("edit", Changes(blobs={"zero": NewBlob(b"0")}))
    assert found(copy) == []
    assert not [*copy.rglob(".tmp-*")]
    stray.write_bytes(b"1")
    assert [text.split(":")[0] for text in found(copy)] == [f"blobs/{stray.name}"]


def test_a_clone_without_empty_folders_is_sound_and_can_be_changed(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s", CONFIG)
    (store.path / "journal").rmdir()  # as git does not keep it
    assert store.verify() == []
    assert store.journal.get("ab") is None
    with store.writing() as change:
        change.publish("edit", Changes(blobs={"a": NewBlob(b"x")}))
    assert store.verify() == []


def test_several_kinds_of_damage_are_all_named(copy: Path) -> None:
    execute(copy, "UPDATE event SET line = replace(line, 'ann', 'eve') WHERE seq = 2")
    execute(copy, "UPDATE record SET body = body || ' ' WHERE key = 3")
    (blob, *_) = (copy / "blobs").iterdir()
    blob.write_bytes(b"x")
    (copy / "config.toml").write_bytes(replace(CONFIG, seed=9).to_toml())
    text = "\n".join(found(copy))
    for part in ("line 2 of the history", f"blobs/{blob.name}", "config.toml"):
        assert part in text


def test_a_store_that_is_written_while_it_is_verified_is_sound(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(copy)
    kept = os.listdir(copy / "blobs")

    def blobs_as_another_writes(*args: Any) -> Any:
        (copy / "blobs" / kept[0]).read_bytes()
        new = copy / "blobs" / sha256(b"new").hexdigest()
        new.write_bytes(b"new")  # before its commit
        return listed(*args)

    listed = integrity._blob_problems
    monkeypatch.setattr(integrity, "_blob_problems", blobs_as_another_writes)
    assert [*integrity.verify(Layout(store.path), READ_ALL, full=True)] == []


def test_a_database_that_cannot_be_read_is_told_of_by_whoever_writes(copy: Path) -> None:
    file = copy / "store.db"
    data = file.read_bytes()
    file.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))  # the schema stays
    with pytest.raises(EditorError, match="malformed"), Store.open(copy).writing():
        pass
