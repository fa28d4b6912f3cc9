"""What is purged is nowhere: not in a byte of the store's folder, and in no version."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from tiny_stores import CONFIG, PARIS, PARIS_AGAIN, ROME, content, framed, shard

from editcli.store.changes import Changes, NewBlob
from editcli.store.edits import edits_of
from editcli.store.store import Store
from editors import EditorError, Fact

SECRET = Fact(
    "The secret city of Ann is",
    "Zanzibar",
    subject="Ann",
    aliases=("Annabel",),
    variants=("Where Ann hides:",),
    note="told by her brother",
    id="secret-1",
)
WORDS = [b"secret", b"Zanzibar", b"Annabel", b"hides", b"brother"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """v0002 has ROME; v0003 enters SECRET; v0004 edits PARIS with it; HEAD is v0004."""
    store = Store.create(tmp_path / "s", CONFIG, Changes(blobs=framed()))
    with store.writing() as change:
        change.publish("edit", Changes([ROME], blobs=shard(0, [ROME])))
        change.publish("edit", Changes([SECRET], blobs=shard(1, [SECRET])), message="of Ann")
        change.publish("edit", Changes([PARIS], blobs=shard(2, [SECRET, PARIS])), message="mine")
        change.tag("good", message="where Annabel is")
    return store


def purging(store: Store, facts: list[Fact], **about: str) -> None:
    """Purge facts, and train the shards that hold them from what stays."""
    gone = {fact.id for fact in facts}
    head = store.head()
    state = edits_of(store, head)
    blobs: dict[str, NewBlob | None] = {}
    for name, groups in state.payload.made_from.items():
        kept = [fact for group in groups for fact in group if fact not in gone]
        if any(fact in gone for group in groups for fact in group):
            blobs[name] = NewBlob(f"{name} of {kept}".encode(), (tuple(kept),)) if kept else None
    standing = [entry.fact for entry in store.in_force(head)]
    closed = {fact.id: None for fact in standing if fact and fact.id in gone}
    with store.writing() as change:
        change.purge(gone, Changes(closed=closed, blobs=blobs), **about)  # type: ignore[arg-type]


def everywhere(store: Store) -> bytes:
    """All bytes of all files, and the names of these."""
    held = content(store.path)
    return b"\n".join([*held.values(), *(name.encode() for name in held)])


def test_nothing_of_a_purged_fact_is_left(store: Store) -> None:
    made = [
        store.read(name, blob)
        for name, blob in store.blobs(store.head()).items()
        if name.startswith(("shard-0001", "shard-0002"))
    ]
    assert len(made) == 2
    assert [text in everywhere(store) for text in [*WORDS, *made]] == [True] * 7
    purging(store, [SECRET], message="asked by its owner")
    assert [text in everywhere(store) for text in [*WORDS, *made]] == [False] * 7
    assert store.verify() == []
    told = [message for _, message in store.history()]
    assert told == ["", "", None, "mine", None, "asked by its owner"]
    with pytest.raises(EditorError, match="no fact has an id that starts with"):
        store.full_id("secret")
    assert store.about(SECRET.id) == set()
    assert store.past(store.head(), SECRET.id) is None


def test_all_else_is_as_it_was(store: Store) -> None:
    tags, old = store.refs(), store.blobs(store.version("v2"))
    purging(store, [SECRET])
    head = store.head()
    assert (head.id, head.parent, head.operation) == ("v0005", "v0004", "purge")
    assert head.changes == {"added": 0, "removed": 1, "superseded": 0}
    assert store.refs() == {**tags, "HEAD": "v0005"}
    assert [entry.fact for entry in store.in_force(head)] == [ROME, PARIS]
    assert edits_of(store, whole=True).in_force() == [ROME, PARIS]
    assert edits_of(store, "v2", whole=True).in_force() == [ROME]
    assert store.blobs(store.version("v2")) == old
    assert [store.count(version) for version in store.versions()] == [0, 1, 2, 3, 2]
    gone, come = store.diff(store.version("v4"), head)
    assert ([entry.fact for entry in gone], come) == ([None], [])


def test_what_was_purged_is_counted(store: Store) -> None:
    with store.writing() as change:
        done = change.purge(
            [SECRET.id, "unknown"],
            Changes(closed={SECRET.id: None}, blobs=dict.fromkeys(store.blobs(store.head()))),
        )
    assert (done.facts, done.notes, done.blobs) == (1, 2, 2)
    assert done.version == store.head()


@pytest.mark.parametrize("ref", ["v3", "v4", "good"])
def test_a_version_that_held_it_is_refused(store: Store, ref: str) -> None:
    purging(store, [SECRET])
    before = content(store.path)
    with pytest.raises(EditorError, match="a fact was purged from v000") as caught:
        edits_of(store, ref)
    assert "a version that was made later" in caught.value.hint
    with store.writing() as change, pytest.raises(EditorError, match=r"1 fact of .* was purged"):
        change.move_head(ref)
    assert content(store.path) == before


def test_a_version_with_a_blob_that_was_made_from_it_is_refused(store: Store) -> None:
    with store.writing() as change:
        change.publish("undo", Changes(closed={SECRET.id: None}))  # the shards stay
    purging(store, [SECRET])
    assert [entry.fact for entry in store.in_force(store.version("v5"))] == [ROME, PARIS]
    with pytest.raises(EditorError, match="purged"):
        edits_of(store, "v5")
    with store.writing() as change, pytest.raises(EditorError, match="purged"):
        change.move_head("v5")


def test_every_text_that_a_fact_had_is_purged(store: Store) -> None:
    other = Fact("The secret city of Ann is", "Bergen by the sea", subject="Ann", id=SECRET.id)
    with store.writing() as change:
        changes = Changes([other], closed={SECRET.id: SECRET.id}, blobs=shard(3, [other]))
        change.publish("edit", changes, extra={"seen": ["Bergen by the sea"]})
        change.publish("undo", Changes(closed={SECRET.id: None}))
    (text,) = [e.text for e in store.in_force(store.version("v3")) if e.fact == SECRET]
    purging(store, [SECRET])
    assert not [word for word in [*WORDS, b"Bergen"] if word in everywhere(store)]
    assert store.verify() == []
    with store.writing() as change, pytest.raises(EditorError, match="was purged"):
        change.publish("undo", Changes(again=[text]))


def test_it_is_purged_from_other_branches_too(store: Store) -> None:
    with store.writing() as change:
        change.move_head("v2")
        change.publish("edit", Changes([PARIS_AGAIN]))
        change.purge([SECRET.id], Changes())
    assert not [word for word in WORDS if word in everywhere(store)]
    assert [entry.fact for entry in store.in_force(store.head())] == [ROME, PARIS_AGAIN]
    assert store.verify() == []


def test_a_fact_may_be_entered_again_later(store: Store) -> None:
    purging(store, [SECRET])
    with store.writing() as change:
        change.publish("edit", Changes([SECRET], blobs=shard(1, [SECRET])))
    assert [entry.fact for entry in store.in_force(store.head())] == [ROME, PARIS, SECRET]
    # The bytes of its shard are those that were purged; they stay now.
    with store.writing():
        pass
    assert edits_of(store, whole=True).in_force() == [ROME, PARIS, SECRET]
    assert store.verify() == []
    store.blob_path("it", store.blobs(store.head())["shard-0001.safetensors"]).unlink()
    assert "is missing" in store.verify()[0].detail


def test_what_was_not_published_is_gone_too(store: Store) -> None:
    store.journal.put("ab", b"half trained on Zanzibar")
    stray = store.path / "blobs" / ("5" * 64)  # as a killed process leaves it
    stray.write_bytes(b"trained on Zanzibar")
    purging(store, [SECRET])
    assert not [word for word in WORDS if word in everywhere(store)]


def test_blobs_that_came_back_by_hand_go_again(store: Store) -> None:
    held = content(store.path)
    purging(store, [SECRET])
    for name, data in held.items():
        if name.startswith("blobs"):
            (store.path / name).write_bytes(data)
    with store.writing():
        pass
    back = {name for name in content(store.path) if name.startswith("blobs")}
    new = {f"blobs/{blob.digest}" for blob in store.blobs(store.head()).values()}
    assert back == {*new, f"blobs/{store.head().config}"}
    assert store.verify() == []


def test_a_blob_with_the_same_bytes_as_a_purged_one_stays(store: Store) -> None:
    shards = {n: b for n, b in store.blobs(store.head()).items() if n.startswith("shard")}
    data = store.read("it", shards["shard-0001.safetensors"])
    with store.writing() as change:
        change.publish("edit", Changes(blobs={"same": NewBlob(data)}))
        again = {"shard-0002.safetensors": None, "shard-0001.safetensors": None}
        other = NewBlob(store.read("it", shards["shard-0002.safetensors"]))
        changes = Changes(closed={SECRET.id: None}, blobs={**again, "other": other})
        change.purge([SECRET.id], changes)
    held = store.blobs(store.head())
    assert {name: store.read(name, held[name]) for name in ("same", "other")} == {
        "same": data,
        "other": other.data,
    }
    assert store.verify() == []


@pytest.mark.parametrize(
    ("changes", "about", "message"),
    [
        (Changes(closed={SECRET.id: None}), {}, "the new version would hold 1 purged fact"),
        (Changes(), {}, "the new version would hold 1 purged fact"),
        (
            Changes(closed={SECRET.id: None}, blobs=shard(1, [SECRET]) | shard(2, [ROME])),
            {},
            "would hold 1 purged fact",
        ),
        (Changes(closed={"x": None}), {}, "not in force"),
        (Changes(), {"message": "no more of ann"}, "the message holds text that is to be purged"),
        (Changes(), {"message": f"undo {SECRET.id}"}, "the message holds text"),
        (Changes(), {"extra": {"a": ["Zanzibar"]}}, "the message holds text"),
    ],
)
def test_a_purge_that_would_leave_something_changes_nothing(
    store: Store, changes: Changes, about: dict[str, object], message: str
) -> None:
    before = content(store.path)
    with store.writing() as change, pytest.raises(EditorError, match=message):
        change.purge([SECRET.id], changes, **about)  # type: ignore[arg-type]
    assert content(store.path) == before


def test_hundreds_of_facts_are_purged_in_seconds(tmp_path: Path) -> None:
    facts = [
        Fact(f"The mayor of town {n} is", f"mayor {n}", subject=f"town {n}", id=f"mayor-{n}")
        for n in range(700)
    ]
    store = Store.create(tmp_path / "s", CONFIG, Changes(facts[:400]))
    with store.writing() as change:
        for fact in facts[400:]:
            changes = Changes([fact], blobs={f"b{fact.id}": NewBlob(fact.id.encode())})
            change.publish("edit", changes, message=f"about {fact.subject}", extra={"failed": []})
        gone = [fact.id for fact in facts[:600]]
        begin = time.process_time()
        done = change.purge(gone, Changes(closed=dict.fromkeys(gone)))
        seconds = time.process_time() - begin
    assert (done.facts, done.notes) == (600, 200)
    assert seconds < 5
    left = everywhere(store)
    assert not [n for n in range(600) if f'mayor {n}"'.encode() in left]
    assert store.verify() == []


@pytest.mark.parametrize("seed", range(2))
def test_no_copy_stays_where_rows_were_moved(tmp_path: Path, seed: int) -> None:
    """SQLite moves rows from page to page, and leaves what it no longer needs."""
    chance = random.Random(seed)
    store = Store.create(tmp_path / "s", CONFIG)
    facts = [
        Fact(f"the place of zz{number}zz is", f"qq{number}qq {'x' * chance.choice([1, 50, 900])}")
        for number in range(900)
    ]
    order = chance.sample(facts, 240)
    with store.writing() as change:
        for start in range(0, 900, 100):
            change.publish("edit", Changes(facts[start : start + 100]))
        for start in range(0, 240, 40):
            some = [fact.id for fact in order[start : start + 40]]
            change.purge(some, Changes(closed=dict.fromkeys(some)))
    data = everywhere(store)
    texts = [(f.id, f.prompt, f.target.split()[0] + " ") for f in order]
    assert not [text for own in texts for text in own if text.encode() in data]
    assert store.verify() == []
    assert store.count(store.head()) == 660
