"""Versions that nothing in use comes from: what they alone hold can go, and nothing else."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import pytest
from tiny_stores import (
    CONFIG,
    PARIS,
    PARIS_AGAIN,
    ROME,
    blobs_in,
    content,
    framed,
    json_of,
    run,
    shard,
)

from editcli.store.changes import Changes, NewBlob
from editcli.store.edits import edits_of
from editcli.store.store import Store
from editors import EditorError, Fact

EVER = datetime(2100, 1, 1, tzinfo=UTC)  # all that was done was done before


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """v0002 has PARIS, in shard 0; v0003, a branch that was left, ROME, in shard 1; v0004 was
    rejected; v0005, HEAD, comes from v0002 too."""
    store = Store.create(tmp_path / "s", CONFIG, Changes(blobs=framed()))
    with store.writing() as change:
        change.publish("edit", Changes([PARIS], blobs=shard(0, [PARIS])))
        change.publish("edit", Changes([ROME], blobs=shard(1, [ROME])))
        change.move_head("v0002")
        rejected = Changes([ROME], blobs=shard(2, [ROME]))
        change.publish("edit", rejected, rejected=True)
        closed = {PARIS.id: PARIS_AGAIN.id}
        change.publish("edit", Changes([PARIS_AGAIN], closed=closed, blobs=shard(3, [PARIS])))
    return store


def collect(store: Store, before: datetime = EVER) -> tuple[str, ...]:
    with store.writing() as change:
        return change.remove_abandoned(before, message="tidied").versions


def test_what_only_abandoned_versions_hold_goes_and_all_else_stays(store: Store) -> None:
    kept = {v: edits_of(store, v, whole=True) for v in ("v1", "v2", "v5")}
    assert store.abandoned(EVER).versions == ("v0003", "v0004")
    assert store.removed() == []
    assert collect(store) == ("v0003", "v0004")
    assert store.verify() == []
    held = {digest for v in ("v1", "v2", "v5") for digest in blobs_in(store, v).values()}
    held.add(sha256((store.path / "config.toml").read_bytes()).hexdigest())
    assert {path.name for path in (store.path / "blobs").iterdir()} == held
    assert {v: edits_of(store, v, whole=True) for v in kept} == kept
    assert store.removed() == ["v0003", "v0004"]
    event, message = store.history()[-1]
    assert (event.operation, event.head, message) == ("gc", "v0005", "tidied")
    # The history keeps them, with their facts.
    assert [entry.fact for entry in store.in_force(store.version("v3"))] == [PARIS, ROME]
    before = content(store.path)
    assert collect(store) == ()
    assert content(store.path) == before


def test_a_version_that_was_removed_says_so(store: Store) -> None:
    collect(store)
    before = content(store.path)
    for act in ("checkout", "tag"):
        with store.writing() as change, pytest.raises(EditorError) as caught:
            change.move_head("v3") if act == "checkout" else change.tag("good", "v3")
        assert "v0003 was abandoned, and its content was removed" in caught.value.message
    with pytest.raises(EditorError, match="was abandoned, and its content was removed"):
        edits_of(store, "v4", whole=True)
    assert content(store.path) == before


@pytest.mark.parametrize("name", ["v3", "v4"])
def test_a_tag_keeps_a_version(store: Store, name: str) -> None:
    with store.writing() as change:
        change.tag("good", name)
    other = "v0004" if name == "v3" else "v0003"
    assert collect(store) == (other,)
    assert len(edits_of(store, name, whole=True).payload.blobs) == 2
    assert store.verify() == []
    with store.writing() as change:
        change.delete_tag("good")
    assert collect(store) == (f"v000{name[1]}",)


def test_what_comes_from_an_abandoned_version_and_is_in_use_keeps_it(store: Store) -> None:
    with store.writing() as change:
        change.move_head("v3")
        change.publish("edit", Changes(closed={ROME.id: None}))
    assert collect(store) == ("v0004", "v0005")
    assert edits_of(store, "v3", whole=True).in_force() == [PARIS, ROME]
    assert store.verify() == []


def test_what_was_in_use_lately_stays(tmp_path: Path) -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    with patch("editcli.store.transaction.now") as now:
        now.side_effect = lambda: day
        store = Store.create(tmp_path / "s", CONFIG, Changes(blobs=framed()))
        with store.writing() as change:
            for number, fact in enumerate((PARIS, ROME)):  # v0002 and v0003
                change.publish("edit", Changes([fact], blobs=shard(number, [fact])))
            day += timedelta(days=10)
            change.move_head("v0002")  # v0003 was HEAD until now
            day += timedelta(days=1)
            change.tag("good", "v0003")
            day += timedelta(days=1)
            change.delete_tag("good")  # and had a tag until now
    start = datetime(2026, 3, 1, tzinfo=UTC)
    found = {days: store.abandoned(start + timedelta(days=days)).versions for days in range(14)}
    assert [days for days, versions in found.items() if versions] == [12, 13]


def test_what_was_removed_and_is_made_again_stays(store: Store) -> None:
    collect(store)
    with store.writing() as change:
        change.publish("edit", Changes([ROME], blobs=shard(1, [ROME])))
    with store.writing():
        pass
    assert edits_of(store, whole=True).in_force() == [PARIS_AGAIN, ROME]
    assert store.verify() == []
    store.blob_path("it", store.blobs(store.head())["shard-0001.safetensors"]).unlink()
    assert "is missing" in store.verify()[0].detail


def test_what_a_version_in_use_needs_is_never_licensed_to_be_missing(store: Store) -> None:
    """Whatever the history says was removed."""
    needed = store.blobs(store.head())["shard-0003.safetensors"].digest
    with store.writing() as change:
        change._point("gc", "", "", "", "mallory", "", purged=[needed])
    with store.writing():
        pass
    assert store.verify() == []
    (store.path / "blobs" / needed).unlink()
    assert "is missing" in store.verify()[0].detail


def test_facts_are_purged_from_what_was_removed_too(store: Store) -> None:
    collect(store)
    with store.writing() as change:
        change.purge([ROME.id], Changes())
    assert store.verify() == []
    assert not any(ROME.prompt.encode() in data for data in content(store.path).values())


@pytest.mark.parametrize("seed", range(4))
def test_no_version_in_use_loses_anything(tmp_path: Path, seed: int) -> None:
    """Any history: versions in use read back as they were, and the store is sound."""
    chance = random.Random(seed)
    store = Store.create(tmp_path / "s", CONFIG, Changes(blobs=framed()))
    for number in range(40):
        with store.writing() as change:
            alive = [v for v in store.ids() if v not in store.removed()]
            act = chance.random()
            if act < 0.5:
                fact = Fact(f"the place of {number} is", "x")
                name = f"shard-{chance.randrange(3):04d}.safetensors"
                data = f"shard {chance.randrange(6)}".encode()  # the same bytes come again
                changes = Changes([fact], blobs={name: NewBlob(data)})
                change.publish("edit", changes, rejected=chance.random() < 0.3)
            elif act < 0.75:
                change.move_head(chance.choice(alive))
            elif act < 0.85:
                change.tag(chance.choice("abc"), chance.choice(alive), move=True)
            elif act < 0.9 and (tags := store.refs().keys() - {"HEAD"}):
                change.delete_tag(chance.choice(sorted(tags)))
            else:
                change.remove_abandoned(EVER)
        assert store.verify() == []
        for version in {*store.refs().values()}:
            for ancestor in store.ancestry(store.version(version)):
                for name, blob in store.blobs(ancestor).items():
                    store.read(name, blob)


def test_on_the_command_line(store: Store) -> None:
    place = ("--store", str(store.path))
    assert json_of(run("gc", "--abandoned", "--json", *place))["abandoned"] == []  # made just now
    words = ("gc", "--abandoned", "--older-than", "0", *place)
    before = content(store.path)
    dry = json_of(run(*words, "--dry-run", "--json"))
    assert (dry["abandoned"], dry["blob_files"], dry["dry_run"]) == (["v0003", "v0004"], 2, True)
    assert content(store.path) == before
    done = run(*words)
    assert done.stdout.splitlines() == [
        "removed 2 blobs and 0 finished parts, 0.0 MB",
        "abandoned: v0003, v0004",
    ]
    log = run("log", *place).stdout
    assert log.count("(removed)") == 2
    assert "content of abandoned versions" in log
    assert json_of(run("show", "v3", "--json", *place))["removed"]
    assert run("report", "-o", str(store.path.parent / "page.html"), *place).exit_code in (0, 2)
    assert "v0003 was abandoned" in run("checkout", "v3", *place).stderr
    assert run("verify", "--no-base", *place).exit_code == 0
    usage = run("gc", "--older-than", "3", *place)
    assert (usage.exit_code, "abandoned" in usage.stderr) == (2, True)
