"""Whatever is done to a store, each version holds what a plain list says, and `verify` is content.

A machine publishes, goes back, tags and purges at random, and keeps beside the store what every
version must hold.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tiny_stores import CONFIG

from editcli.store.changes import Changes, NewBlob
from editcli.store.store import Store
from editcli.store.tables.contents import Change
from editors import EditorError, Fact

IDS = [f"id{number}" for number in range(6)]
TARGETS = ("Lyon", "Milan", "Nice")
BLOBS = ("a", "b", "c")
MESSAGES = ("", "a batch", "about id1", "the city of id2 is Lyon")


@dataclass(eq=False)
class Text:
    """A fact as it was entered once; ``key``: the record of its text."""

    fact: Fact
    key: int
    purged: bool = False

    def now(self) -> Fact | None:
        return None if self.purged else self.fact


@dataclass(eq=False)
class Held:
    """A blob, and the texts that it was made from."""

    data: bytes
    made_from: tuple[Text, ...] = ()

    @property
    def purged(self) -> bool:
        return any(text.purged for text in self.made_from)


@dataclass(eq=False)
class Known:
    """What a version must hold: the texts in force, in order; of each id the newest text that was
    ever entered; the blobs; and what the version did."""

    parent: str = ""
    in_force: list[Text] = field(default_factory=list)
    newest: dict[str, Text] = field(default_factory=dict)
    blobs: dict[str, Held] = field(default_factory=dict)
    did: list[tuple[str, Text, Text | None]] = field(default_factory=list)
    message: str = ""

    def of(self, fact: str) -> Text | None:
        return next((text for text in self.in_force if text.fact.id == fact), None)

    def usable(self) -> bool:
        texts = [*self.in_force, *(t for blob in self.blobs.values() for t in blob.made_from)]
        return not any(text.purged for text in texts)


def fact_of(name: str, target: str) -> Fact:
    return Fact(f"the city of {name} is", target, id=name)


ids = st.sampled_from(IDS)
some_ids = st.lists(ids, unique=True, max_size=3)


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.create(self.folder / "s", CONFIG)
        self.known = {"v0001": Known()}
        self.events = {1: "v0001"}
        self.head = "v0001"
        self.tags: dict[str, str] = {}
        self.texts: list[Text] = []
        self.made = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def _published(
        self,
        version: str,
        after: Known,
        entered: Sequence[tuple[Text, str]],
        ended: Sequence[tuple[Text, str | None]],
    ) -> None:
        """Keep what a version must hold: ``entered`` texts and how, and those that ``ended``."""
        after.parent, before = self.head, self.known[self.head]
        gone = [text for text, _ in ended]
        coming = [text for text, _ in entered]
        after.in_force = [text for text in before.in_force if text not in gone] + coming
        after.newest = before.newest | {t.fact.id: t for t, how in entered if how == "new"}
        by_id = {text.fact.id: text for text in [*before.in_force, *coming]}
        after.did = [("added", text, None) for text in coming]
        after.did += [
            ("superseded" if by else "removed", t, by_id[by] if by else None) for t, by in ended
        ]
        self.known[version] = after
        self.head = version
        self.events[len(self.events) + 1] = version
        # The records of the texts are told by the store.
        records = {e.fact: e.text for e in self.store.in_force(self.store.head()) if e.fact}
        for text in coming:
            text.key = records[text.fact]

    @rule(data=st.data(), message=st.sampled_from(MESSAGES))
    def publish(self, data: st.DataObject, message: str) -> None:
        before = self.known[self.head]
        standing = [text.fact.id for text in before.in_force]
        others = [
            text for text in self.texts if not text.purged and before.of(text.fact.id) is None
        ]
        again = data.draw(st.lists(st.sampled_from(others), max_size=2)) if others else []
        again = [*{text.fact.id: text for text in again}.values()]
        back = {text.fact.id for text in again}
        facts = [
            fact_of(name, data.draw(st.sampled_from(TARGETS)))
            for name in data.draw(some_ids)
            if name not in back
        ]
        new = {fact.id for fact in facts}
        closed: dict[str, str | None] = {name: name for name in standing if name in new}
        for name in data.draw(st.lists(st.sampled_from(standing), max_size=2)) if standing else ():
            successors = [None, *sorted({*new, *back, *standing} - {name})]
            closed.setdefault(name, data.draw(st.sampled_from(successors)))
        known = {text.fact.id: text for text in before.newest.values() if not text.purged}
        blobs: dict[str, NewBlob | None] = {}
        after = Known(blobs=dict(before.blobs), message=message)
        entered = {fact.id: Text(fact, 0) for fact in facts}
        for name in data.draw(st.lists(st.sampled_from(BLOBS), unique=True)):
            sources = sorted({*known, *new})
            kind = data.draw(st.sampled_from(["gone", "shared", "own"]))
            made = data.draw(st.lists(st.sampled_from(sources), max_size=2)) if sources else []
            if kind == "gone":
                blobs[name] = None
                after.blobs.pop(name, None)
            elif kind == "shared" or not made:
                blobs[name] = NewBlob(b"shared")
                after.blobs[name] = Held(b"shared")
            else:
                self.made += 1
                own = b"made %d" % self.made
                blobs[name] = NewBlob(own, (tuple(made),))
                after.blobs[name] = Held(own, tuple(entered.get(i) or known[i] for i in made))
        changes = Changes(facts, [text.key for text in again], closed, blobs)
        ended = [(text, by) for name, by in closed.items() if (text := before.of(name))]
        with self.store.writing() as change:
            version = change.publish("edit", changes, message=message)
        self.texts += entered.values()
        coming = [(text, "again") for text in again] + [(t, "new") for t in entered.values()]
        self._published(version.id, after, coming, ended)
        assert version.changes == {
            kind: Counter(did[0] for did in after.did)[kind]
            for kind in ("added", "removed", "superseded")
        }

    @rule(data=st.data())
    def move_head(self, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from(sorted(self.known)))
        with self.store.writing() as change:
            if not self.known[target].usable():
                with pytest.raises(EditorError, match="purged"):
                    change.move_head(target)
                return
            change.move_head(target)
        if target != self.head:
            self.events[len(self.events) + 1] = ""
        self.head = target

    @rule(data=st.data(), name=st.sampled_from(["good", "bad"]))
    def tag(self, data: st.DataObject, name: str) -> None:
        target = data.draw(st.sampled_from([None, *sorted(self.known)]))
        with self.store.writing() as change:
            if target is None and name in self.tags:
                assert change.delete_tag(name) == self.tags.pop(name)
            elif target is not None and self.tags.get(name) != target:
                change.tag(name, target, move=True)
                self.tags[name] = target
            else:
                return
        self.events[len(self.events) + 1] = ""

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        present = sorted({text.fact.id for text in self.texts if not text.purged})
        if not present:
            return
        gone = set(data.draw(st.lists(st.sampled_from(present), min_size=1, max_size=2)))
        before = self.known[self.head]
        after = Known(blobs=dict(before.blobs))
        ended = [(text, None) for text in before.in_force if text.fact.id in gone]
        blobs: dict[str, NewBlob | None] = {}
        for name, held in before.blobs.items():
            if any(text.fact.id in gone for text in held.made_from):
                blobs[name] = None
                del after.blobs[name]
        changes = Changes(closed={text.fact.id: None for text, _ in ended}, blobs=blobs)
        texts = [text for text in self.texts if text.fact.id in gone and not text.purged]
        removed = {
            held.data
            for known in self.known.values()
            for held in known.blobs.values()
            if any(text in texts for text in held.made_from)
        }
        with self.store.writing() as change:
            done = change.purge(gone, changes)
        assert (done.facts, done.blobs) == (len(texts), len(removed))
        words = {word for text in texts for word in (text.fact.id, text.fact.target)}
        for known in self.known.values():
            if words & set(known.message.split()):
                known.message = ""
        for text in texts:
            text.purged = True
        self._published(done.version.id, after, [], ended)

    @invariant()
    def the_store_is_sound(self) -> None:
        if hasattr(self, "store"):
            assert self.store.verify() == []

    @invariant()
    def every_version_holds_what_it_must(self) -> None:
        if not hasattr(self, "store"):
            return
        store = self.store
        assert store.refs() == {"HEAD": self.head, **self.tags}
        assert [version.id for version in store.versions()] == sorted(self.known)
        for version in store.versions():
            known = self.known[version.id]
            assert (version.parent, version.message) == (known.parent, known.message)
            assert [e.fact for e in store.in_force(version)] == [t.now() for t in known.in_force]
            assert store.count(version) == len(known.in_force)
            blobs = store.blobs(version)
            assert blobs.keys() == known.blobs.keys()
            for name, blob in blobs.items():
                held = known.blobs[name]
                assert blob.made_from == (
                    (tuple(text.key for text in held.made_from),) if held.made_from else ()
                )
                if held.purged:
                    with pytest.raises(EditorError, match="missing"):
                        store.read(name, blob)
                else:
                    assert store.read(name, blob) == held.data

    @invariant()
    def every_event_did_what_is_told_of_it(self) -> None:
        if not hasattr(self, "store"):
            return
        assert [event.seq for event, _ in self.store.history()] == sorted(self.events)
        about: dict[str, set[int]] = {}
        for seq, version in self.events.items():
            did = self.known[version].did if version else []
            told = [
                Change(kind, t.now(), by.fact.id if by and not by.purged else None)  # type: ignore[arg-type]
                for kind, t, by in did
            ]
            assert self.store.changes(seq) == told
            for _, text, _ in did:
                if not text.purged:
                    about.setdefault(text.fact.id, set()).add(seq)
        for name in IDS:
            assert self.store.about(name) == about.get(name, set())
        present = {text.fact.id for text in self.texts if not text.purged}
        assert self.store.ids_beginning("id") == sorted(present)

    @precondition(lambda self: len(self.known) > 1)
    @rule(data=st.data())
    def versions_are_compared(self, data: st.DataObject) -> None:
        one, other = data.draw(
            st.lists(st.sampled_from(sorted(self.known)), min_size=2, max_size=2)
        )
        before, after = self.known[one].in_force, self.known[other].in_force
        gone, come = self.store.diff(self.store.version(one), self.store.version(other))
        for entries, here, there in ((gone, before, after), (come, after, before)):
            elsewhere = {text.now() or text for text in there}
            alone = [text for text in here if (text.now() or text) not in elsewhere]
            assert [entry.fact for entry in entries] == [text.now() for text in alone]


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=settings.default.max_examples // 3, stateful_step_count=12, deadline=None
)
