"""The store through its public door: versions, sharing, refs, the lock, a full disk, verify."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_stores import CONFIG as TINY
from tiny_stores import journal_keys, run

from editcli.store import atomic, history
from editcli.store.layout import Layout, find_store, new_store_path
from editcli.store.records import STORE_FORMAT, StoreConfig
from editcli.store.store import Store
from editors import EditorError

CONFIG = replace(TINY, settings={"profile": "paper"})
NOON = datetime(2026, 3, 1, 12, 3, 11, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("editcli.store.transaction.now", lambda: NOON)
    return Store.create(tmp_path / ".editcli", CONFIG, author="ann")


def publish(store: Store, blobs: dict[str, bytes | str], *facts: str) -> str:
    with store.writing() as tx:
        return tx.publish("edit", blobs, facts, added=facts, author="ann").id


def files(store: Store) -> dict[str, bytes]:
    """Every file of a store but its lock."""
    return {
        str(path.relative_to(store.path)): path.read_bytes()
        for path in sorted(store.path.rglob("*"))
        if path.is_file() and not path.name.startswith("lock")
    }


def flip(path: Path, position: int, mask: int) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= mask
    path.write_bytes(data)


# --- making, finding, opening ---------------------------------------------------------------


def test_a_new_store_has_a_first_version_without_facts(store: Store) -> None:
    head = store.head()
    assert (head.id, head.parent, head.operation, head.facts) == ("v0001", "", "init", ())
    assert head.created == "2026-03-01T12:03:11+00:00"
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
        (("format = 2", "format = 9"), "format 9, this editcli reads format 2"),
        (("format = 2\n", ""), "format None, this editcli reads format 2"),
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
    before = files(store)
    with pytest.raises(EditorError) as caught:
        Store.open(store.path)
    assert caught.value.message == (
        "this store was made by editcli 0.1, and this version cannot read it"
    )
    assert "`editcli init`" in caught.value.hint
    assert "`editcli apply`" in caught.value.hint
    assert files(store) == before


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
    assert text.splitlines()[0] == f"format = {STORE_FORMAT}" == "format = 2"


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
    with store.writing() as tx:
        made = tx.publish(
            "apply",
            {"shard": b"\x00\x01", "facts.jsonl": b"{}\n"},
            ["a", "b"],
            added=["b"],
            removed=["c"],
            superseded=["d"],
            author="bob",
            message="two\nlines, naïve",
            tools={"torch": "2.13"},
            extra={"heads": [[1, 2]], "nested": {"x": None}},
        )
    assert made == Store.open(store.path).head() == store.version("v0002")
    assert (made.parent, made.facts, made.id) == ("v0001", ("a", "b"), "v0002")
    assert (made.added, made.removed, made.superseded) == (("b",), ("c",), ("d",))
    assert made.extra == {"heads": [[1, 2]], "nested": {"x": None}}
    assert store.read(made, "shard") == b"\x00\x01"
    assert store.read("HEAD", "facts.jsonl") == b"{}\n"


def test_unchanged_blobs_are_shared_by_bytes_and_by_digest(store: Store) -> None:
    publish(store, {"a": b"same", "b": b"old"})
    first = store.head()
    publish(store, {"a": b"same", "b": b"new"})
    publish(store, {"a": first.blobs["a"], "c": b"old"})
    assert len(list((store.path / "blobs").iterdir())) == 3
    assert store.head().blobs["c"] == first.blobs["b"]
    assert store.read("HEAD", "a") == b"same"


def test_a_digest_the_store_does_not_hold_is_refused(store: Store) -> None:
    before = files(store)
    with store.writing() as tx, pytest.raises(EditorError, match="holds no blob 0000"):
        tx.publish("edit", {"fresh": b"x", "shared": "0" * 64})
    assert files(store) == before


@pytest.mark.parametrize("extra", [{"x": float("nan")}, {"x": object()}, {"x": "\ud800"}])
def test_what_json_cannot_hold_is_refused_and_leaves_no_trace(
    store: Store, extra: dict[str, object]
) -> None:
    before = files(store)
    with store.writing() as tx, pytest.raises(EditorError, match="JSON"):
        tx.publish("edit", {"a": b"x"}, extra=extra)
    assert files(store) == before


def test_a_damaged_blob_is_never_read(store: Store) -> None:
    publish(store, {"a": b"xyz"})
    flip(store.blob_path("HEAD", "a"), 1, 1)
    with pytest.raises(EditorError, match="damaged"):
        store.read("HEAD", "a")


def test_publishing_the_same_bytes_again_heals_a_damaged_blob(store: Store) -> None:
    publish(store, {"a": b"xyz"})
    flip(store.blob_path("HEAD", "a"), 1, 1)
    publish(store, {"a": b"xyz"})
    assert store.verify() == []


def test_a_blob_that_no_version_uses_is_no_damage_unless_its_bytes_are(store: Store) -> None:
    publish(store, {"a": b"used"})
    stray = store.path / "blobs" / sha256(b"0").hexdigest()
    stray.write_bytes(b"0")  # as a process leaves it that is killed before its commit
    assert store.verify() == []
    flip(stray, 0, 1)
    assert [problem.what for problem in store.verify()] == [f"blobs/{stray.name}"]
    publish(store, {"a": b"used", "b": b"0"})
    assert store.verify() == []


@pytest.mark.parametrize("ref", ["HEAD~1", "v0002", "good"])
def test_a_version_whose_manifest_is_damaged_is_never_read(store: Store, ref: str) -> None:
    publish(store, {"a": b"x"})
    publish(store, {"a": b"y"})
    with store.writing() as tx:
        tx.tag("good", "v0002")
    flip(store.path / "versions" / "v0002.json", 30, 1)
    with pytest.raises(EditorError, match="manifest of v0002 is damaged"):
        store.version(ref)
    with pytest.raises(EditorError, match="manifest of v0002 is damaged"):
        store.ancestry(store.head())
    assert store.read("HEAD", "a") == b"y"


def test_ancestry_goes_from_a_version_to_the_first_one(store: Store) -> None:
    publish(store, {})
    publish(store, {})
    assert [v.id for v in store.ancestry(store.head())] == ["v0003", "v0002", "v0001"]
    with store.writing() as tx:
        tx.move_head("v0002")
        branched = tx.publish("edit", {})
    assert [v.id for v in store.ancestry(branched)] == ["v0004", "v0002", "v0001"]
    assert [v.id for v in store.ancestry(store.version("v0001"))] == ["v0001"]


# --- refs -----------------------------------------------------------------------------------


def test_a_version_is_known_by_id_number_tag_head_and_ancestry(store: Store) -> None:
    publish(store, {})
    publish(store, {})
    with store.writing() as tx:
        tx.tag("release", "v0002")
    refs = ["v0002", "v2", "2", "002", "release", "HEAD~", "HEAD~1", "v3~1", "release~0"]
    assert {store.version(ref).id for ref in refs} == {"v0002"}
    assert store.version("HEAD~2").id == "v0001"
    assert store.refs() == {"HEAD": "v0003", "release": "v0002"}


@pytest.mark.parametrize(
    ("ref", "suggested"),
    [("relaese", "release"), ("head", "HEAD"), ("v9", "v0001"), ("00", None), ("", None)],
)
def test_an_unknown_ref_suggests_the_nearest(store: Store, ref: str, suggested: str | None) -> None:
    with store.writing() as tx:
        tx.tag("release")
    with pytest.raises(EditorError, match="no version is called") as caught:
        store.version(ref)
    assert "`editcli log`" in caught.value.hint
    if suggested:
        assert f"did you mean `{suggested}" in caught.value.hint


@pytest.mark.parametrize("steps", ["1", "9" * 30])
def test_ancestry_ends_at_the_first_version(store: Store, steps: str) -> None:
    with pytest.raises(EditorError, match="beyond the first version"):
        store.version(f"HEAD~{steps}")


def test_checkout_moves_head_and_the_next_version_descends_from_it(store: Store) -> None:
    publish(store, {})
    publish(store, {})
    with store.writing() as tx:
        assert tx.move_head("v2", author="bob", message="back").id == "v0002"
        tx.move_head("HEAD")
    assert store.head().id == "v0002"
    publish(store, {})
    assert (store.head().id, store.head().parent) == ("v0004", "v0002")
    assert [event.operation for event in store.history()].count("checkout") == 1
    assert [version.id for version in store.versions()] == ["v0001", "v0002", "v0003", "v0004"]
    assert store.verify() == []


def test_a_tag_is_moved_only_when_asked(store: Store) -> None:
    publish(store, {})
    with store.writing() as tx:
        tx.tag("good", "v1")
        tx.tag("good", "v1")
        with pytest.raises(EditorError, match="already names v0001"):
            tx.tag("good", "v2")
        tx.tag("good", "v2", move=True)
        with pytest.raises(EditorError, match="only in its case"):
            tx.tag("Good", "v2")
    assert store.version("good").id == "v0002"
    assert store.verify() == []


@pytest.mark.parametrize("name", ["HEAD", "head", "v3", "12", "", "a/b", "..", "a b", "-x", "a~1"])
def test_a_name_that_would_confuse_is_no_tag(store: Store, name: str) -> None:
    with store.writing() as tx, pytest.raises(EditorError, match="cannot be a tag"):
        tx.tag(name)


# --- the lock -------------------------------------------------------------------------------


HOLD = """
import sys
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
        r"\(editcli apply facts\.jsonl\) since \d\d:\d\d:\d\d UTC",
        caught.value.message,
    )


def test_readers_do_not_wait_for_a_writer(store: Store, holder: subprocess.Popen[str]) -> None:
    assert holder.poll() is None
    assert store.head().id == "v0001"
    assert store.verify() == []


def test_the_lock_of_a_killed_process_is_free(store: Store, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert publish(store, {}) == "v0002"
    assert not (store.path / "lock.json").exists()


def test_the_lock_is_given_back_after_an_error(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.writing():
        raise ZeroDivisionError
    assert publish(store, {}) == "v0002"


def test_a_transaction_ends_with_its_block(store: Store) -> None:
    with store.writing() as tx:
        pass
    with pytest.raises(EditorError, match="transaction is over"):
        tx.publish("edit", {})


# --- a full disk ----------------------------------------------------------------------------


def full_disk(fail_at: int, names: tuple[str, ...], count: list[int]) -> SimpleNamespace:
    """The os module with no room left from the call number `fail_at` on; frees still work."""

    def refusing(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            count[0] += 1
            if count[0] >= fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call

    fake = SimpleNamespace(**vars(os))
    for name in names:
        setattr(fake, name, refusing(getattr(os, name)))
    return fake


@pytest.mark.parametrize("names", [("write",), ("fsync",), ("write", "fsync")])
def test_a_full_disk_at_any_write_leaves_the_store_unchanged(
    store: Store, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    publish(store, {"a": b"old"})
    errors = []
    for fail_at in range(1, 100):
        before = files(store)
        with monkeypatch.context() as patch, store.writing() as tx:
            patch.setattr(atomic, "os", full_disk(fail_at, names, [0]))
            try:
                tx.publish("edit", {"a": b"old", "b": b"new" * 9, "c": b"more"}, ["f"])
                break
            except EditorError as error:
                errors.append(error)
        assert files(store) == before
    assert all("no space left" in error.message for error in errors)
    assert all("make room" in error.hint for error in errors)
    assert len(errors) >= 5
    assert store.head().id == "v0003"
    assert store.verify() == []
    assert publish(store, {}) == "v0004"


def test_refs_that_cannot_follow_a_commit_follow_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.writing() as tx:
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "os", full_disk(1, ("replace",), [0]))
            tx.tag("good", "v1")
        assert store.refs() == {"HEAD": "v0001", "good": "v0001"}
        assert not (store.path / "refs" / "good").exists()
        assert store.verify() == []
        tx.publish("edit", {})
    assert (store.path / "refs" / "good").read_text() == "v0001\n"
    assert store.verify() == []


def test_a_failing_disk_is_named_with_its_reason(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with store.writing() as tx, monkeypatch.context() as patch:
        patch.setattr(atomic, "os", SimpleNamespace(**{**vars(os), "fsync": broken}))
        with pytest.raises(EditorError, match="publishing v0002 failed: input/output error"):
            tx.publish("edit", {"a": b"x"})
    assert store.head().id == "v0001"


def test_a_full_disk_does_not_harm_a_journal_entry(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.journal.put("aa", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "os", full_disk(1, ("write",), [0]))
        with pytest.raises(EditorError, match="no space left"):
            store.journal.put("aa", b"new")
    assert store.journal.get("aa") == b"old"


# --- verify ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def specimen(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with every kind of file; tests that damage it put it right again."""
    store = Store.create(tmp_path_factory.mktemp("specimen") / "s", CONFIG)
    publish(store, {"shard": bytes(range(256)), "facts": b"one\n"}, "f1")
    publish(store, {"shard": store.head().blobs["shard"], "facts": b"one\ntwo\n"}, "f1", "f2")
    with store.writing() as tx:
        tx.tag("good", "v0002", message="tested")
        tx.move_head("good")
        tx.move_head("v3")
    return store


FOLDERS = ["history.jsonl", "config.toml", "blobs/*", "versions/*", "refs/*"]


@pytest.mark.parametrize("pattern", FOLDERS)
@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_verify_finds_any_flipped_byte(specimen: Store, pattern: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(specimen.path.glob(pattern))))
    intact = path.read_bytes()
    position = data.draw(st.integers(0, len(intact) - 1))
    mask = data.draw(st.integers(1, 255))
    assert specimen.verify() == []
    try:
        flip(path, position, mask)
        assert specimen.verify()
    finally:
        path.write_bytes(intact)


@pytest.mark.parametrize("pattern", ["history.jsonl", "refs/HEAD"])
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_writer_builds_on_a_damaged_history(
    specimen: Store, pattern: str, data: st.DataObject
) -> None:
    path = specimen.path / pattern
    intact = path.read_bytes()
    before = files(specimen)
    try:
        flip(path, data.draw(st.integers(0, len(intact) - 1)), data.draw(st.integers(1, 255)))
        with pytest.raises(EditorError) as caught:
            publish(specimen, {"x": b"y"})
        assert "`editcli verify`" in caught.value.hint
        with pytest.raises(EditorError):
            specimen.head()
    finally:
        path.write_bytes(intact)
    assert files(specimen) == before


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_verify_finds_lines_taken_off_the_end_of_the_history(specimen: Store, cut: int) -> None:
    path = specimen.path / "history.jsonl"
    intact = path.read_bytes()
    try:
        path.write_bytes(b"".join(intact.splitlines(keepends=True)[:-cut]))
        assert "refs/HEAD vouches for line 6" in specimen.verify()[0].detail
    finally:
        path.write_bytes(intact)


@pytest.mark.parametrize("pattern", FOLDERS[2:])
def test_verify_finds_every_missing_file(specimen: Store, pattern: str) -> None:
    for path in sorted(specimen.path.glob(pattern)):
        intact = path.read_bytes()
        path.unlink()
        try:
            assert any(path.name in p.what and "missing" in p.detail for p in specimen.verify())
        finally:
            path.write_bytes(intact)


@pytest.mark.parametrize("name", ["blobs/notes.txt", "versions/v0009.json", "refs/stray"])
def test_verify_finds_files_that_no_one_recorded(specimen: Store, name: str) -> None:
    path = specimen.path / name
    path.write_bytes(b"x")
    try:
        assert [problem.what for problem in specimen.verify()] == [name]
    finally:
        path.unlink()


def test_verify_names_a_folder_among_the_blobs_and_goes_on(specimen: Store) -> None:
    folder = specimen.path / "blobs" / "lost+found"
    folder.mkdir()
    try:
        found = [(problem.what, problem.detail) for problem in specimen.verify()]
    finally:
        folder.rmdir()
    assert found == [("blobs/lost+found", "is not a blob")]


@pytest.mark.parametrize("parent", ["v0009", "v0002", ""])
def test_verify_finds_a_version_without_its_parent_though_every_hash_is_right(
    store: Store, parent: str
) -> None:
    publish(store, {"a": b"x"})
    publish(store, {"a": b"y"})
    assert store.verify() == []
    manifest = store.path / "versions" / "v0002.json"
    manifest.write_bytes(
        json.dumps({**json.loads(manifest.read_bytes()), "parent": parent}).encode()
    )
    chain = history.parse(b"", None)
    lines = b""
    for event in history.read(Layout(store.path)).events:
        if event.version == "v0002":
            event = replace(event, manifest=sha256(manifest.read_bytes()).hexdigest())
        chain, line = chain.plus(event)
        lines += line
    (store.path / "history.jsonl").write_bytes(lines)
    (store.path / "refs" / "HEAD").write_bytes(chain.refs(0)["HEAD"])
    found = [(problem.what, problem.detail) for problem in Store.open(store.path).verify()]
    assert found == [("versions/v0002.json", f"names an unknown parent, {parent!r}")]


@pytest.mark.parametrize("moment", range(1, 7))
def test_a_store_that_is_written_while_it_is_verified_is_sound(
    store: Store, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    publish(store, {"a": b"x"})
    with store.writing() as tx:
        tx.tag("good", "v1")
    read, reads = atomic.read, []

    def read_as_another_writes(path: Path) -> bytes | None:
        reads.append(path)
        if len(reads) == moment:
            with store.writing() as tx:
                tx.publish("edit", {"b": b"y"})
                tx.tag("good", "v2", move=True)
                tx.tag("new")
        return read(path)

    monkeypatch.setattr(atomic, "read", read_as_another_writes)
    assert store.verify() == []
    assert store.refs() == {"HEAD": "v0003", "good": "v0002", "new": "v0003"}


def test_a_deleted_head_is_rebuilt_from_the_history(store: Store) -> None:
    publish(store, {})
    (store.path / "refs" / "HEAD").unlink()
    assert [problem.what for problem in store.verify()] == ["refs/HEAD"]
    assert publish(store, {}) == "v0003"
    assert store.verify() == []


# --- the journal ----------------------------------------------------------------------------


def test_the_journal_keeps_entries_until_it_is_cleared(store: Store) -> None:
    journal = Store.open(store.path).journal
    assert journal.get("ab") is None
    store.journal.put("ab", b"")
    store.journal.put("01", b"x\ny")
    store.journal.put("01", b"\nz")
    assert journal_keys(store) == ["01", "ab"]
    assert (journal.get("01"), journal.get("ab")) == (b"\nz", b"")
    assert store.verify() == []
    journal.clear()
    assert journal_keys(store) == []


@given(payload=st.binary(max_size=40), data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_journal_entry_counts_as_absent(
    specimen: Store, payload: bytes, data: st.DataObject
) -> None:
    specimen.journal.put("ab", payload)
    path = specimen.path / "journal" / "ab"
    size = path.stat().st_size
    flip(path, data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, 255)))
    assert specimen.journal.get("ab") is None


def test_a_journal_entry_under_another_key_counts_as_absent(store: Store) -> None:
    store.journal.put("ab", b"x")
    (store.path / "journal" / "ab").rename(store.path / "journal" / "cd")
    assert store.journal.get("cd") is None
