"""The store through its public door: making it, versions, blobs, refs, the lock, the journal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_stores import CONFIG as TINY
from tiny_stores import PARIS, ROME, content, journal_keys, run

from editcli.store.changes import Changes, NewBlob
from editcli.store.files import atomic
from editcli.store.files.layout import Layout, find_store, new_store_path
from editcli.store.records import STORE_FORMAT, StoreConfig
from editcli.store.store import Store
from editors import EditorError, Fact

CONFIG = replace(TINY, settings={"profile": "paper"})
NOON = datetime(2026, 3, 1, 12, 3, 11, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("editcli.store.transaction.now", lambda: NOON)
    return Store.create(tmp_path / ".editcli", CONFIG, who="ann")


def publish(store: Store, **blobs: bytes | None) -> str:
    """Publish a version with these blobs, or without those that are None; returns its id."""
    changed = {name: data if data is None else NewBlob(data) for name, data in blobs.items()}
    with store.writing() as change:
        return change.publish("edit", Changes(blobs=changed), who="ann").id


def blob(store: Store, name: str, ref: str = "HEAD") -> bytes:
    """The bytes of a blob of a version."""
    return store.read(name, store.blobs(store.version(ref))[name])


def blob_file(store: Store, name: str) -> Path:
    """The file of a blob of HEAD."""
    return store.blob_path(name, store.blobs(store.head())[name])


def flip(path: Path, position: int, mask: int) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= mask
    path.write_bytes(data)


# --- making, finding, opening ---------------------------------------------------------------


def test_a_new_store_has_a_first_version_without_facts(store: Store) -> None:
    head = store.head()
    assert (head.id, head.parent, head.operation, head.who) == ("v0001", "", "init", "ann")
    assert head.at == "2026-03-01T12:03:11+00:00"
    assert head.changes == {"added": 0, "removed": 0, "superseded": 0}
    assert (store.count(head), store.blobs(head)) == (0, {})
    assert store.refs() == {"HEAD": "v0001"}
    assert store.verify() == []


def test_an_opened_store_has_the_configuration_it_was_made_with(store: Store) -> None:
    assert Store.open(store.path).config == CONFIG


def test_create_refuses_what_is_already_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(EditorError, match="already holds a store"):
        Store.create(store.path, CONFIG)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(EditorError, match="not an empty folder"):
        Store.create(tmp_path / "full", CONFIG)


@pytest.mark.parametrize("name", ["plain", "with space", "a%41?b#c&mode=rw", "naïve", b"\xff"])
def test_a_store_may_be_in_a_folder_of_any_name(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    try:
        Store.create(path, CONFIG)
    except EditorError as error:  # not every file system takes every name
        pytest.skip(str(error))
    publish(Store.open(path), a=b"x")
    assert blob(Store.open(path), "a") == b"x"
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_what_is_made_from_a_refused_configuration_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EditorError, match="JSON"):
        Store.create(tmp_path / "s", CONFIG, extra={"x": object()})
    assert [*tmp_path.iterdir()] == []


def test_create_takes_an_empty_folder_and_makes_missing_parents(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert Store.create(tmp_path / "empty", CONFIG).verify() == []
    assert Store.create(tmp_path / "a" / "b", CONFIG).verify() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty"]


texts = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1).filter(str.strip)
finite = st.floats(allow_nan=False, allow_infinity=False)
plain_values = texts | st.integers(-(2**63), 2**63 - 1) | st.booleans() | finite


@given(
    base=texts,
    revision=st.text(st.characters(blacklist_categories=["Cs"])),
    seed=st.integers(0, 2**32),
    layer=st.integers(0, 200),
    values=st.dictionaries(texts, plain_values),
)
def test_any_configuration_survives_the_round_trip(
    base: str, revision: str, seed: int, layer: int, values: dict[str, str | int | float | bool]
) -> None:
    config = replace(CONFIG, base=base, revision=revision, seed=seed, layer=layer, settings=values)
    back = StoreConfig.from_toml(config.to_toml())
    assert back == config
    assert [type(back.settings[key]) for key in values] == [type(v) for v in values.values()]


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_a_setting_may_be_blank_text(value: str) -> None:
    config = replace(CONFIG, settings={"suffix": value})
    assert StoreConfig.from_toml(config.to_toml()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("format = 3", "format = 9"), "format 9, this editcli reads format 3"),
        (("format = 3\n", ""), "format None, this editcli reads format 3"),
        (("seed = 0", 'seed = "x"'), "config.toml: seed: must be a whole number, not text"),
        (("seed = 0", "seed = true"), "config.toml: seed: must be a whole number, not true"),
        (('method = "wise"\n', ""), "config.toml: method: is required"),
        (("seed = 0\n", ""), "config.toml: seed: is required"),
        (("seed = 0", "seed = 0\nsped = 1"), r"unknown key 'sped' \(did you mean 'seed'\?\)"),
        (("seed = 0", "seed = "), "config.toml cannot be read: .*line"),
        (("atlas", "atl\udc61s"), "config.toml cannot be read: 'utf-8' codec can't decode"),
        (('base = "atlas"', 'base = " "'), "config.toml: base: must not be empty"),
        (('profile = "paper"', "profile = [1]"), r"config.toml: settings\.profile"),
    ],
)
def test_a_bad_configuration_is_refused_by_name(change: tuple[str, str], message: str) -> None:
    text = CONFIG.to_toml().decode()
    assert change[0] in text
    with pytest.raises(EditorError, match=message):
        StoreConfig.from_toml(text.replace(*change).encode(errors="surrogatepass"))


def test_every_problem_of_a_configuration_is_named_at_once() -> None:
    text = CONFIG.to_toml().replace(b"seed = 0", b'seed = "x"').replace(b"layer = 4", b"layr = 4")
    with pytest.raises(EditorError) as caught:
        StoreConfig.from_toml(text)
    assert "seed: must be a whole number, not text" in caught.value.message
    assert "unknown key 'layr' (did you mean 'layer'?)" in caught.value.message


def test_a_configuration_that_cannot_be_written_is_never_made() -> None:
    with pytest.raises(EditorError, match=r"base: must not be empty; seed: must be a whole number"):
        replace(CONFIG, base="", seed=0.5)


# As editcli 0.1 wrote it.
CONFIG_OF_0_1 = """\
format = 1
base = "atlas"
revision = ""
fingerprint = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
method = "wise"
dtype = "float32"
seed = 0

[settings]
layer = 4
profile = "paper"
"""


def test_a_store_of_editcli_0_1_is_refused_with_what_to_do(store: Store) -> None:
    (store.path / "config.toml").write_text(CONFIG_OF_0_1)
    before = content(store.path)
    with pytest.raises(EditorError) as caught:
        Store.open(store.path)
    assert caught.value.message == (
        "this store was made by editcli 0.1, and this version cannot read it"
    )
    assert "`editcli init`" in caught.value.hint
    assert "`editcli apply`" in caught.value.hint
    assert content(store.path) == before


@pytest.mark.parametrize("command", [["log"], ["show"], ["ask", "Who?"], ["edit", "a", "b"]])
def test_every_command_says_so_of_a_store_of_editcli_0_1(store: Store, command: list[str]) -> None:
    (store.path / "config.toml").write_text(CONFIG_OF_0_1)
    result = run(*command, "--store", str(store.path))
    assert (result.exit_code, result.stdout) == (1, "")
    error, _, hint = result.stderr.splitlines()
    assert error.startswith("error: this store was made by editcli 0.1")
    assert hint.startswith("hint: make a new store: `editcli init`")


def test_stores_are_written_in_the_format_that_is_read(store: Store) -> None:
    text = (store.path / "config.toml").read_text()
    assert text.splitlines()[0] == f"format = {STORE_FORMAT}" == "format = 3"


def test_a_store_is_found_like_a_git_repository(store: Store, tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    assert find_store(None, deep, {}) == store.path
    assert find_store(None, Path("/"), {"EDITCLI_STORE": str(store.path)}) == store.path
    assert find_store(tmp_path, Path("/"), {"EDITCLI_STORE": "/nowhere"}) == store.path
    assert find_store(Path(".editcli"), tmp_path, {}) == store.path


def test_a_store_named_explicitly_is_never_passed_over(store: Store, tmp_path: Path) -> None:
    with pytest.raises(EditorError, match="no store at /nowhere") as caught:
        find_store(Path("/nowhere"), tmp_path, {})
    assert "`editcli init`" in caught.value.hint
    with pytest.raises(EditorError, match="from EDITCLI_STORE"):
        find_store(None, tmp_path, {"EDITCLI_STORE": "/nowhere"})


def test_a_new_store_goes_where_it_would_be_looked_for(tmp_path: Path) -> None:
    assert new_store_path(None, tmp_path, {}) == tmp_path / ".editcli"
    assert new_store_path(None, tmp_path, {"EDITCLI_STORE": "/s"}) == Path("/s")
    assert new_store_path(Path("x"), tmp_path, {"EDITCLI_STORE": "/s"}) == tmp_path / "x"


# --- versions and blobs ---------------------------------------------------------------------


def test_a_published_version_reads_back_as_it_was_given(store: Store) -> None:
    blobs = {"shard": NewBlob(b"\x00\x01", ((PARIS.id,),)), "empty": NewBlob(b"")}
    with store.writing() as change:
        made = change.publish(
            "apply",
            Changes([PARIS, ROME], closed={PARIS.id: None}, blobs=blobs),
            who="bob",
            message="two\nlines, naïve",
            tools={"torch": "2.13"},
            extra={"heads": [[1, 2]], "nested": {"x": None}},
        )
    assert made == Store.open(store.path).head() == store.version("v0002")
    assert (made.parent, made.id, made.number, made.operation) == ("v0001", "v0002", 2, "apply")
    assert (made.who, made.message, made.tools) == ("bob", "two\nlines, naïve", {"torch": "2.13"})
    assert made.extra == {"heads": [[1, 2]], "nested": {"x": None}}
    assert (blob(store, "shard"), blob(store, "empty")) == (b"\x00\x01", b"")
    assert [entry.fact for entry in store.in_force(made)] == [ROME]
    assert store.verify() == []


def test_a_blob_stays_until_it_is_changed_or_taken_away(store: Store) -> None:
    publish(store, a=b"1", b=b"2")
    publish(store, a=b"3")
    publish(store, b=None)
    publish(store, b=b"2")
    held = [{n: blob(store, n, v) for n in store.blobs(store.version(v))} for v in store.ids()]
    assert held == [
        {},
        {"a": b"1", "b": b"2"},
        {"a": b"3", "b": b"2"},
        {"a": b"3"},
        {"a": b"3", "b": b"2"},
    ]


def test_equal_blobs_are_stored_once(store: Store) -> None:
    publish(store, a=b"same", b=b"old")
    publish(store, b=b"new")
    first = store.blobs(store.version("v2"))
    with store.writing() as change:
        change.publish("edit", Changes(blobs={"c": first["b"], "d": NewBlob(b"same")}))
    assert len(list((store.path / "blobs").iterdir())) == 1 + 3  # the configuration is one
    assert (blob(store, "c"), blob(store, "d")) == (b"old", b"same")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 101, "a\nb", "C:x"])
def test_a_name_that_could_be_a_path_is_no_blob(store: Store, name: str) -> None:
    before = content(store.path)
    with store.writing() as change, pytest.raises(EditorError, match="name of a blob"):
        change.publish("edit", Changes([PARIS], blobs={name: NewBlob(b"x")}))
    assert content(store.path) == before


@pytest.mark.parametrize(
    "about",
    [
        *[{"extra": {"x": float("nan")}}, {"extra": {"x": object()}}, {"extra": {"x": "\ud800"}}],
        *[{"message": "\udcff"}, {"who": "\udcff"}],
    ],
)
def test_what_json_cannot_hold_is_refused_and_leaves_no_trace(
    store: Store, about: dict[str, Any]
) -> None:
    before = content(store.path)
    with store.writing() as change, pytest.raises(EditorError, match="JSON"):
        change.publish("edit", Changes([PARIS], blobs={"a": NewBlob(b"x")}), **about)
    assert content(store.path) == before


def test_what_is_too_long_for_a_row_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editcli.store.tables.database.LONGEST_BYTES", 100_000)
    before = content(store.path)
    with store.writing() as change, pytest.raises(EditorError, match="too big"):
        change.publish("edit", Changes(), message="x" * 100_000)
    assert content(store.path) == before


def test_a_damaged_blob_is_never_read(store: Store) -> None:
    publish(store, a=b"xyz")
    flip(blob_file(store, "a"), 1, 1)
    with pytest.raises(EditorError, match="damaged") as caught:
        blob(store, "a")
    assert caught.value.hint == "`editcli verify` lists the damage"


def test_publishing_the_same_bytes_again_heals_a_damaged_blob(store: Store) -> None:
    publish(store, a=b"xyz")
    flip(blob_file(store, "a"), 1, 1)
    publish(store, a=b"xyz")
    assert store.verify() == []


def test_ancestry_goes_from_a_version_to_the_first_one(store: Store) -> None:
    publish(store)
    publish(store)
    assert [v.id for v in store.ancestry(store.head())] == ["v0003", "v0002", "v0001"]
    with store.writing() as change:
        change.move_head("v0002")
        branched = change.publish("edit", Changes())
    assert [v.id for v in store.ancestry(branched)] == ["v0004", "v0002", "v0001"]
    assert [v.id for v in store.ancestry(store.version("v0001"))] == ["v0001"]


def test_a_branch_holds_nothing_of_another(store: Store) -> None:
    publish(store, a=b"1")
    publish(store, a=b"2", b=b"2")
    with store.writing() as change:
        change.move_head("v2")
        change.publish("edit", Changes(blobs={"c": NewBlob(b"3")}))
    assert set(store.blobs(store.head())) == {"a", "c"}
    assert blob(store, "a") == b"1"
    assert store.verify() == []


# --- refs -----------------------------------------------------------------------------------


def test_a_version_is_known_by_id_number_tag_head_and_ancestry(store: Store) -> None:
    publish(store)
    publish(store)
    with store.writing() as change:
        change.tag("release", "v0002")
    refs = ["v0002", "v2", "2", "002", "release", "HEAD~", "HEAD~1", "v3~1", "release~0"]
    assert {store.version(ref).id for ref in refs} == {"v0002"}
    assert store.version("HEAD~2").id == "v0001"
    assert store.refs() == {"HEAD": "v0003", "release": "v0002"}


@pytest.mark.parametrize(
    ("ref", "suggested"),
    [
        *[("relaese", "release"), ("head", "HEAD"), ("v9", "v0001"), ("00", None), ("", None)],
        *[("HEAD~1~1", None), ("HEAD~" + "9" * 30, None), ("9" * 5000, None), ("\udcff", None)],
    ],
)
def test_an_unknown_ref_suggests_the_nearest(store: Store, ref: str, suggested: str | None) -> None:
    with store.writing() as change:
        change.tag("release")
    with pytest.raises(EditorError, match="no version is called") as caught:
        store.version(ref)
    assert "`editcli log`" in caught.value.hint
    if suggested:
        assert f"did you mean `{suggested}" in caught.value.hint


@pytest.mark.parametrize("steps", ["1", "9" * 9])
def test_ancestry_ends_at_the_first_version(store: Store, steps: str) -> None:
    with pytest.raises(EditorError, match="beyond the first version"):
        store.version(f"HEAD~{steps}")


def test_checkout_moves_head_and_the_next_version_descends_from_it(store: Store) -> None:
    publish(store)
    publish(store)
    with store.writing() as change:
        assert change.move_head("v2", who="bob", message="back").id == "v0002"
        change.move_head("HEAD")
    assert store.head().id == "v0002"
    publish(store)
    assert (store.head().id, store.head().parent) == ("v0004", "v0002")
    moves = [(e.who, told) for e, told in store.history() if e.operation == "checkout"]
    assert moves == [("bob", "back")]
    assert [version.id for version in store.versions()] == ["v0001", "v0002", "v0003", "v0004"]
    assert store.ids() == ["v0001", "v0002", "v0003", "v0004"]
    assert store.verify() == []


def test_a_tag_is_moved_only_when_asked(store: Store) -> None:
    publish(store)
    with store.writing() as change:
        change.tag("good", "v1")
        change.tag("good", "v1")
        with pytest.raises(EditorError, match="already names v0001"):
            change.tag("good", "v2")
        change.tag("good", "v2", move=True)
        with pytest.raises(EditorError, match="only in its case"):
            change.tag("Good", "v2")
    assert store.version("good").id == "v0002"
    assert store.verify() == []


def test_a_tag_is_deleted_and_its_name_is_free(store: Store) -> None:
    publish(store)
    with store.writing() as change:
        change.tag("good", "v1", who="ann", message="tested")
        assert change.delete_tag("good", who="bob", message="it was not") == "v0001"
        with pytest.raises(EditorError, match="no tag is called 'good'") as caught:
            change.delete_tag("good")
        assert store.refs() == {"HEAD": "v0002"}
        change.tag("Good", "v2")
    assert "`editcli tag`" in caught.value.hint
    assert store.refs() == {"HEAD": "v0002", "Good": "v0002"}
    told = [(e.who, e.version, e.tag, message) for e, message in store.history()[-3:]]
    assert told == [
        ("ann", "v0001", "good", "tested"),
        ("bob", "", "good", "it was not"),
        ("", "v0002", "Good", ""),
    ]
    assert store.verify() == []


@pytest.mark.parametrize("name", ["HEAD", "head", "v3", "12", "", "a/b", "..", "a b", "-x", "a~1"])
def test_a_name_that_would_confuse_is_no_tag(store: Store, name: str) -> None:
    with store.writing() as change, pytest.raises(EditorError, match="cannot be a tag"):
        change.tag(name)


# --- the lock -------------------------------------------------------------------------------


HOLD = """
import sys
import threading
import time
from pathlib import Path
from editcli.store.store import Store
with Store.open(Path(sys.argv[1])).writing("editcli apply facts.jsonl"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(store: Store) -> Iterator[subprocess.Popen[str]]:
    root = Path(atomic.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_learns_who_holds_the_lock_and_since_when(
    store: Store, holder: subprocess.Popen[str]
) -> None:
    with pytest.raises(EditorError) as caught, Store.open(store.path).writing():
        pass
    assert re.fullmatch(
        rf"store is locked by pid {holder.pid} on host \S+ "
        r"\(editcli apply facts\.jsonl\) since \d\d:\d\d:\d\d",
        caught.value.message,
    )


def test_readers_do_not_wait_for_a_writer(store: Store, holder: subprocess.Popen[str]) -> None:
    assert holder.poll() is None
    assert store.head().id == "v0001"
    assert store.verify() == []


def test_the_lock_of_a_killed_process_is_free(store: Store, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert publish(store) == "v0002"
    assert not (store.path / "lock.json").exists()


def test_the_lock_is_given_back_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.writing():
        raise ZeroDivisionError
    assert publish(store) == "v0002"


def test_a_transaction_ends_with_its_block(store: Store) -> None:
    with store.writing() as change:
        pass
    with pytest.raises(EditorError, match="transaction is over"):
        change.publish("edit", Changes())


# --- the journal ----------------------------------------------------------------------------


def test_the_journal_keeps_entries_until_they_are_removed(store: Store) -> None:
    journal = Store.open(store.path).journal
    assert journal.get("ab") is None
    store.journal.put("ab", b"")
    store.journal.put("01", b"x\ny")
    store.journal.put("01", b"\nz")
    assert journal_keys(store) == ["01", "ab"]
    assert (journal.get("01"), journal.get("ab")) == (b"\nz", b"")
    assert store.verify() == []
    journal.remove(["01"])
    assert journal_keys(store) == ["ab"]


def test_a_training_that_is_under_way_keeps_the_journal_as_it_is(store: Store) -> None:
    store.journal.put("ab", b"of an earlier run")
    half = store.path / "journal" / f".tmp-{'0' * 16}"
    with store.run() as work:
        half.write_bytes(b"being written")
        work.put("cd", b"x", ["fact-1"])
        assert store.journal.in_use()
        with store.writing():
            assert half.exists()
            assert store.journal.older_than(0) == []
        assert work.get("ab") == b"of an earlier run"
        assert (work.get("cd"), work.resumed) == (b"x", 1)
    assert not store.journal.in_use()
    assert len(store.journal.older_than(0)) == 2
    with store.writing():
        assert not half.exists()
    work.forget()
    assert [*(store.path / "journal").iterdir()] == []


def test_each_training_removes_its_own_work_only(store: Store) -> None:
    with store.run() as mine, store.run() as yours:
        mine.put("aa", b"mine", [])
        yours.put("bb", b"yours", [])
        mine.forget()
        assert journal_keys(store) == ["bb"]
        assert yours.get("bb") == b"yours"
    assert not store.journal.in_use()


def test_what_was_made_from_purged_facts_is_not_written_any_more(store: Store) -> None:
    """Nor is it left, whenever it was written, and whoever wrote it."""
    with store.writing() as change:
        change.publish("edit", Changes([PARIS, ROME]))
    with store.run() as work:
        assert work.relies_on([PARIS.id, ROME.id, "other"]) == []
        work.put("aa", b"x", [PARIS.id])
        work.put("bb", b"x", [ROME.id, "other"])
        work.put("cc", b"x")  # nobody knows what of
        with store.writing() as change:
            change.purge([PARIS.id], Changes(closed={PARIS.id: None}))
        assert journal_keys(store) == ["bb"]
        work.put("dd", b"x", ["other", PARIS.id])
        work.put("ee", b"x", ["other"])
        work.put("ff", b"x")
        assert journal_keys(store) == ["bb", "ee"]
        assert work.relies_on([PARIS.id, ROME.id, "other"]) == [PARIS.id]
    with store.writing() as change:  # one that the store did not have when it was trained
        change.publish("edit", Changes([Fact("What is other?", "it", id="other")]))
        change.purge(["other"], Changes(closed={"other": None}))
    assert journal_keys(store) == []


@given(payload=st.binary(max_size=40), data=st.data())
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_journal_entry_counts_as_absent(
    store: Store, payload: bytes, data: st.DataObject
) -> None:
    store.journal.put("ab", payload)
    path = store.path / "journal" / "ab"
    size = path.stat().st_size
    flip(path, data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, 255)))
    assert store.journal.get("ab") is None


def test_a_journal_entry_under_another_key_counts_as_absent(store: Store) -> None:
    store.journal.put("ab", b"x")
    (store.path / "journal" / "ab").rename(store.path / "journal" / "cd")
    assert store.journal.get("cd") is None


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_journal_entry_that_is_no_file_counts_as_absent(store: Store, kind: str) -> None:
    store.journal.put("ab", b"x")
    path = store.path / "journal" / "ab"
    whole = path.rename(store.path.parent / "whole")
    if kind == "link":
        path.symlink_to(whole)
    elif kind == "folder":
        path.mkdir()
    elif hasattr(os, "mkfifo"):
        os.mkfifo(path)
    assert store.journal.get("ab") is None


def test_a_journal_that_a_writer_removes_meanwhile_is_no_fault(tmp_path: Path) -> None:
    layout = Layout(Store.create(tmp_path / "s", CONFIG).path)
    journal = layout.database.with_name("store.db-journal")
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            journal.touch()
            journal.unlink()

    with ThreadPoolExecutor(1) as other:
        writing = other.submit(come_and_go)
        try:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                layout.require_plain()
        finally:
            over.set()
        writing.result()
