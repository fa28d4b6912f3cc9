"""A store may come from anybody: whatever is in it, no file outside is touched, nothing waits for
ever, and every call ends well or with a message.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tiny_stores import CONFIG, PARIS, PARIS_AGAIN, ROME, framed, shard

from editcli.store.changes import Changes, NewBlob
from editcli.store.edits import described, edits_of
from editcli.store.records import StoreConfig
from editcli.store.store import Store
from editcli.store.tables import history
from editcli.store.tables.listing import Wanted
from editcli.store.tables.recorder import leaf_of
from editors import EditorError

DEEP = "[" * 100_000
PRECIOUS = b"of another"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links and pipes are others there")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store.create(tmp_path_factory.mktemp("made") / "s", CONFIG, Changes(blobs=framed()))
    with store.writing() as change:
        change.publish("apply", Changes([PARIS, ROME], blobs=shard(0, [PARIS, ROME])))
        closed: dict[str, str | None] = {PARIS.id: PARIS_AGAIN.id}
        change.publish("edit", Changes([PARIS_AGAIN], closed=closed))
        gone = {"shard-0000.safetensors": None}
        change.purge([ROME.id], Changes(closed={ROME.id: None}, blobs=gone))
        change.tag("good")
    return store.path


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A folder with a store `s` in it, and files and folders of somebody else."""
    shutil.copytree(made, tmp_path / "s")
    (tmp_path / "precious").write_bytes(PRECIOUS)
    (tmp_path / "f" / "g").mkdir(parents=True)
    (tmp_path / "f" / ("0" * 64)).write_bytes(PRECIOUS)
    return tmp_path


def outside(home: Path) -> dict[str, bytes | None]:
    own = home / "s"
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(home.rglob("*"))
        if path != own and own not in path.parents
    }


def calls(path: Path) -> list[Callable[[], object]]:
    """Everything that a store can do, each on a store that is opened anew."""

    def reading(action: Callable[[Store], object]) -> Callable[[], object]:
        return lambda: action(Store.open(path))

    def changing(action: Callable[[Any], object]) -> Callable[[], object]:
        def act() -> None:
            with Store.open(path).writing() as change:
                action(change)

        return act

    def each(action: Callable[[Store, Any], object]) -> Callable[[], object]:
        def act() -> None:
            store = Store.open(path)
            for ref in ("HEAD", "v2", "good~1"):
                with suppress(EditorError):
                    action(store, store.version(ref))

        return act

    return [
        *map(reading, (Store.verify, Store.head, Store.versions, Store.ids, Store.history)),
        reading(Store.refs),
        reading(lambda store: [store.changes(seq) for seq in range(8)]),
        reading(lambda store: store.full_id(PARIS.id[:4])),
        reading(lambda store: store.about(PARIS.id)),
        each(lambda store, version: [*store.list_facts(version, Wanted(match="capital"))]),
        each(lambda store, version: store.count(version)),
        each(lambda store, version: store.ancestry(version)),
        each(lambda store, version: store.past(version, PARIS.id)),
        each(lambda store, version: store.diff(store.version("v2"), version)),
        each(lambda store, version: [store.read(n, b) for n, b in store.blobs(version).items()]),
        each(lambda store, version: edits_of(store, version, whole=True)),
        each(lambda store, version: described(store, version)),
        reading(lambda store: store.journal.get("ab")),
        reading(lambda store: store.journal.put("ab", b"x")),
        reading(lambda store: store.journal.remove([*map(str, range(9))])),
        changing(lambda change: change.tag("new", "v1")),
        changing(lambda change: change.delete_tag("good")),
        changing(lambda change: change.move_head("v2")),
        changing(lambda change: change.publish("edit", Changes(blobs={"a": NewBlob(b"x")}))),
        changing(lambda change: change.publish("edit", Changes(blobs=framed()))),
        changing(lambda change: change.publish("edit", Changes(closed={PARIS_AGAIN.id: None}))),
        changing(lambda change: change.purge([PARIS.id], Changes())),
    ]


def assert_harmless(home: Path) -> int:
    """Do everything with the store; returns how many calls were refused."""
    before, refused = outside(home), 0
    for call in calls(home / "s"):
        try:
            call()
        except EditorError:
            refused += 1
    assert outside(home) == before
    return refused


def rewrite(home: Path, changed: Callable[[int, dict[str, Any]], object]) -> None:
    """Change lines of the history, and make rows and hashes agree with it."""
    previous = history.GENESIS
    with closing(sqlite3.connect(home / "s" / "store.db")) as base, base:
        for seq, text in base.execute("SELECT seq, line FROM event ORDER BY seq").fetchall():
            record = {**json.loads(text), "previous": previous}
            changed(seq, record)
            line = json.dumps(record, ensure_ascii=False)
            previous = sha256(line.encode()).hexdigest()
            parent = str(record.get("parent") or "")
            row = (
                record.get("tag") or None,
                int(parent[1:]) if re.fullmatch("v[0-9]+", parent) else None,
                *(line, previous, seq),
            )
            base.execute("UPDATE event SET tag=?, parent=?, line=?, hash=? WHERE seq=?", row)


def change_record(home: Path, key: int, **columns: object) -> None:
    """Change a record, and make its leaf and the history agree with it."""
    with closing(sqlite3.connect(home / "s" / "store.db")) as base, base:
        for column, value in columns.items():
            base.execute(f"UPDATE record SET {column} = ? WHERE key = ?", (value, key))
        row = base.execute(
            "SELECT kind, name, digest, salt, body, entry, other FROM record WHERE key = ?", (key,)
        ).fetchone()
        base.execute("UPDATE record SET leaf = ? WHERE key = ?", (leaf_of(*row), key))
        contents = {
            seq: sha256(b"".join(leaf for (leaf,) in leaves)).hexdigest()
            for (seq,) in base.execute("SELECT seq FROM event").fetchall()
            for leaves in [
                base.execute("SELECT leaf FROM record WHERE event = ? ORDER BY key", (seq,))
            ]
        }
    rewrite(home, lambda seq, record: record.update(content=contents[seq]))


def key_of(home: Path, condition: str) -> int:
    with closing(sqlite3.connect(home / "s" / "store.db")) as base:
        (key,) = base.execute(f"SELECT min(key) FROM record WHERE {condition}").fetchone()
    assert isinstance(key, int)
    return key


def test_a_store_that_nobody_touched_refuses_only_what_was_purged(home: Path) -> None:
    rewrite(home, lambda seq, record: None)
    change_record(home, 1)
    assert Store.open(home / "s").verify() == []
    assert assert_harmless(home) == 1  # going back to a version with a purged fact


PARTS = ["config.toml", "store.db", "store.db-journal", "store.db-wal", "store.db-shm", "lock"]
PARTS += ["lock.json", "blobs", "journal", ".gitattributes", ".gitignore"]


@pytest.mark.parametrize("target", ["precious", "nowhere", "s2"])
@pytest.mark.parametrize("part", PARTS)
def test_a_link_in_place_of_a_part_is_refused(home: Path, part: str, target: str) -> None:
    path = home / "s" / part
    if target == "s2":
        shutil.copytree(home / "s", home / "s2")
        target = f"s2/{part}"
    if path.exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(home / target)
    with pytest.raises(EditorError, match="is a link, and a store holds none"):
        Store.open(home / "s")
    assert assert_harmless(home) == len(calls(home))
    assert path.is_symlink()


@pytest.mark.parametrize("kind", ["pipe", "folder", "file"])
@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_another_kind_is_refused(home: Path, part: str, kind: str) -> None:
    path = home / "s" / part
    whole = not path.is_dir() and kind == "file"
    if whole or (kind == "folder" and part in ("blobs", "journal")):
        pytest.skip("that is its kind")
    if path.exists():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"x")
    with pytest.raises(EditorError, match=re.escape(f"{part} is not a")):
        Store.open(home / "s")
    assert assert_harmless(home) == len(calls(home))


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "nowhere"])
def test_what_stands_in_place_of_a_blob_is_not_read(home: Path, kind: str) -> None:
    store = Store.open(home / "s")
    blob = store.blobs(store.head())["edits.json"]
    path = store.blob_path("edits.json", blob)
    whole = path.read_bytes()
    path.unlink()
    if kind == "link":
        (home / "f" / "g" / "blob").write_bytes(whole)  # the very bytes
        path.symlink_to(home / "f" / "g" / "blob")
    elif kind == "nowhere":
        path.symlink_to(home / "new")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert [p.what for p in store.verify()] == [f"blobs/{path.name}"]
    with pytest.raises(EditorError):
        store.read("edits.json", blob)
    before = outside(home)
    with store.writing() as change:
        if kind == "folder":
            with pytest.raises(EditorError):
                change.publish("edit", Changes(blobs=framed()))
        else:
            change.publish("edit", Changes(blobs=framed()))
            assert store.read("edits.json", blob) == whole
            assert store.verify() == []
    assert outside(home) == before
    assert_harmless(home)


@pytest.mark.parametrize(
    "change",
    [
        *({key: "../../precious"} for key in ("version", "head", "parent", "tag", "content")),
        {"extra": DEEP},
        *({"version": version} for version in ("", "v9", "v0099", "v" + "9" * 18, [], None, 7)),
        *({"head": head} for head in ("v0099", "v" + "9" * 18, "", None)),
        *({"parent": parent} for parent in ("v0002", "v0003", "v0099", "v" + "9" * 18)),
        *({"purged": purged} for purged in (["../../precious"], ["../precious"], [7], "x", None)),
        *({"at": at} for at in ("", "\x1b[2J", 7, "9" * 10_000)),
        *({"seq": seq} for seq in (-1, 0, 10**30, "2", None)),
        *({"changes": {"added": n}} for n in (-1, 1.5)),
        *({"who": who} for who in (None, ["x"])),
        {"made": False},
        *({"tag": tag} for tag in ("HEAD", "head", "v3", "v0003")),
    ],
)
def test_a_line_that_says_anything_harms_nothing(home: Path, change: dict[str, Any]) -> None:
    rewrite(home, lambda seq, record: record.update(change) if seq == 2 else None)
    assert Store.open(home / "s").verify()
    assert_harmless(home)


@pytest.mark.parametrize(
    "change",
    [
        {"who": "x" * 10**6},
        {"who": DEEP},
        {"changes": {"added": 10**300, "removed": 0, "superseded": 0}},
    ],
)
def test_a_line_with_absurd_values_harms_nothing(home: Path, change: dict[str, Any]) -> None:
    rewrite(home, lambda seq, record: record.update(change) if seq == 2 else None)
    assert Store.open(home / "s").verify() == []
    assert_harmless(home)


@pytest.mark.parametrize("line", ["", "null", "[]", DEEP, '{"seq": 2}', "\0"])
def test_a_line_that_is_none_harms_nothing(home: Path, line: str) -> None:
    with closing(sqlite3.connect(home / "s" / "store.db")) as base, base:
        digest = sha256(line.encode()).hexdigest()
        base.execute("UPDATE event SET line = ?, hash = ? WHERE seq = 2", (line, digest))
    assert Store.open(home / "s").verify()
    assert_harmless(home)


@pytest.mark.parametrize("name", ["../../precious", "..", "/etc/passwd", "a/b", "", "x" * 10**6])
def test_a_blob_with_a_name_or_digest_that_leads_elsewhere_is_not_read(
    home: Path, name: str
) -> None:
    for column in ("name", "digest"):
        change_record(home, key_of(home, "kind = 'blob'"), **{column: name})
        store = Store.open(home / "s")
        assert store.verify()
        with pytest.raises(EditorError, match="cannot be read"):
            store.blobs(store.head())
        assert_harmless(home)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "7",
        "[7]",
        "[[1.5]]",
        '[["x"]]',
        f"[[{10**30}]]",
        "[[-1]]",
        "[[[1]]]",
        DEEP,
        "[[99]]",
    ],
)
@pytest.mark.parametrize("kind", ["blob", "note", "fact"])
def test_a_record_that_says_anything_harms_nothing(home: Path, kind: str, body: str) -> None:
    change_record(home, key_of(home, f"kind = '{kind}' AND event = 2"), body=body)
    assert Store.open(home / "s").verify() or (kind, body) == ("blob", "")
    assert_harmless(home)


@pytest.mark.parametrize(
    "body",
    [
        '{"message": 7, "tools": {}, "extra": {}}',
        '{"message": "", "tools": {}, "extra": {}, "number": 9}',
        '{"message": ""}',
    ],
)
def test_a_note_with_other_keys_or_values_is_named(home: Path, body: str) -> None:
    change_record(home, key_of(home, "kind = 'note' AND event = 2"), body=body)
    assert "cannot be read" in Store.open(home / "s").verify()[0].detail
    assert_harmless(home)


@pytest.mark.parametrize(
    "body",
    [
        '{"id": "../../precious", "prompt": "a", "target": "b"}',
        f'{{"id": "{PARIS.id}", "prompt": "a"}}',
        f'{{"id": "{PARIS.id}", "id": "other", "prompt": "a", "target": "b"}}',
        f'{{"id": "{PARIS.id}", "prompt": 7, "target": [], "more": {DEEP[:9]}}}',
    ],
)
def test_a_fact_that_is_none_is_named(home: Path, body: str) -> None:
    change_record(home, key_of(home, "kind = 'fact'"), body=body)
    assert f"fact {PARIS.id} cannot be read" in Store.open(home / "s").verify()[0].detail
    assert_harmless(home)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        *(("close", {"entry": entry}) for entry in (None, 1, 99, -1, 2**62)),
        *(("close", {"other": other}) for other in (1, 99, -1, 2**62)),
        *((kind, {"other": 2}) for kind in ("fact", "note", "blob")),
        *(("fact", {"kind": kind}) for kind in ("again", "close", "note", "else", "")),
        *(("note", {"event": event}) for event in (0, -1, 99, 2**62, 2**63 - 1)),
        *(("note", {"key": key}) for key in (0, -1, 99, 2**62, 2**63 - 1)),
    ],
)
def test_a_record_that_names_others_at_will_harms_nothing(
    home: Path, kind: str, columns: dict[str, Any]
) -> None:
    if "key" in columns:
        with closing(sqlite3.connect(home / "s" / "store.db")) as base, base:
            statement = "UPDATE record SET key = ? WHERE key = (SELECT max(key) FROM record)"
            base.execute(statement, (columns["key"],))
    else:
        condition = f"kind = '{kind}' AND event > 1 AND (kind != 'note' OR event = 3)"
        change_record(home, key_of(home, condition), **columns)
    verified = Store.open(home / "s").verify()
    assert verified or (kind, columns) == ("fact", {"other": 2})
    assert_harmless(home)


def test_numbers_at_the_end_of_all_numbers_harm_nothing(home: Path) -> None:
    with closing(sqlite3.connect(home / "s" / "store.db")) as base, base:
        base.execute("UPDATE event SET seq = ? WHERE seq = 5", (2**63 - 1,))
        base.execute("UPDATE event SET made = ? WHERE made = 4", (10**18 - 1,))
    assert Store.open(home / "s").verify()
    assert_harmless(home)


def test_parents_in_a_circle_are_not_followed_for_ever(home: Path) -> None:
    with closing(sqlite3.connect(home / "s" / "store.db")) as base, base:
        base.execute("UPDATE event SET parent = 4 WHERE made = 2")
        base.execute("UPDATE event SET parent = 3 WHERE made = 3")
    assert Store.open(home / "s").verify()
    assert_harmless(home)


def journal_that_names(path: Path, database: bytes) -> bytes:
    """A journal of SQLite that rolls nothing back, of a change of several databases, whose list is
    said to be `path`: SQLite deletes that file."""
    magic, size = bytes.fromhex("d9d505f920a163d7"), 4096
    page, nonce = database[:size], 7
    total = nonce + sum(page[place] for place in range(size - 200, 0, -200))
    header = magic + struct.pack(">5I", 1, nonce, len(database) // size, 512, size)
    record = struct.pack(">I", 1) + page + struct.pack(">I", total & 0xFFFFFFFF)
    name = os.fsencode(path)
    end = struct.pack(">I", 0x40000000 // size + 1) + name
    end += struct.pack(">2I", len(name), sum(name)) + magic
    return header.ljust(512, b"\0") + record + end


def test_a_mark_of_a_training_that_is_a_link_is_left_alone(home: Path) -> None:
    store = Store.open(home / "s")
    (store.path / "journal" / f"run-{'0' * 16}").symlink_to(home / "precious")
    (store.path / "journal" / f"run-{'1' * 16}").symlink_to(home / "new")
    (store.path / "journal" / f"run-{'2' * 16}").mkdir()
    assert not store.journal.in_use()
    with store.run(), store.writing():
        assert store.journal.in_use()
    assert (home / "precious").read_bytes() == PRECIOUS
    assert not (home / "new").exists()


def test_a_journal_that_names_another_file_is_refused(home: Path) -> None:
    victim = home / "precious"
    database = home / "s" / "store.db"
    journal = journal_that_names(victim, database.read_bytes())
    # SQLite itself falls for it.
    (home / "own.db").write_bytes(database.read_bytes())
    (home / "own.db-journal").write_bytes(journal_that_names(home / "bait", database.read_bytes()))
    (home / "bait").write_bytes(b"x")
    with closing(sqlite3.connect(home / "own.db")) as base:
        base.execute("SELECT count(*) FROM event").fetchone()
    assert not (home / "bait").exists()

    (home / "s" / "store.db-journal").write_bytes(journal)
    with pytest.raises(EditorError, match="is not the database of a store"):
        Store.open(home / "s").head()
    assert Store.open(home / "s").verify()
    assert_harmless(home)
    assert victim.read_bytes() == PRECIOUS


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"SQLite format 3\0", b"SQLite format 3\0" + b"\xff" * 5000, b"not one" * 2000],
)
def test_a_database_that_is_none_is_refused(home: Path, data: bytes) -> None:
    (home / "s" / "store.db").write_bytes(data)
    assert Store.open(home / "s").verify()
    with pytest.raises(EditorError):
        Store.open(home / "s").head()
    assert_harmless(home)
    assert (home / "s" / "store.db").read_bytes() == data


@pytest.mark.parametrize("text", ["", "=", "a = " + DEEP, "format = 3", "\0", "format = [3]"])
def test_a_configuration_that_is_none_is_refused(home: Path, text: str) -> None:
    with pytest.raises(EditorError):
        StoreConfig.from_toml(text.encode())
    (home / "s" / "config.toml").write_text(text)
    assert assert_harmless(home) == len(calls(home))


@pytest.mark.parametrize("text", ["[]", "{}", DEEP, '{"pid": []}', "\udcff", ""])
def test_a_lock_that_says_anything_is_told_of(home: Path, text: str) -> None:
    store = Store.open(home / "s")
    with store.writing():
        (home / "s" / "lock.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(EditorError, match="locked by another process"), store.writing():
            pass
