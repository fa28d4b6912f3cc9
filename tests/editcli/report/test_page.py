"""`editcli report`: one page that loads nothing, and says what the store says."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parsed_page import Page
from tiny_stores import (
    CONFIG,
    PARIS,
    PARIS_AGAIN,
    ROME,
    content,
    framed,
    in_force,
    json_of,
    run,
    store_with_a_past,
)

from editcli.cli.console import printable_lines
from editcli.operations.scores.records import IN_FORCE
from editcli.report.facts import LISTED
from editcli.report.history import CHANGES_LISTED, COLUMNS_DRAWN, ENTRIES_LISTED
from editcli.report.page import TRIES, render
from editcli.store.changes import Changes, NewBlob
from editcli.store.edits import edits_of
from editcli.store.store import Store
from editors import EditorError, Fact
from editors.heads.pruning import Head, HeadMask, HeadPruning

EVIL = Fact("<script>alert(1)</script> & 'the' \"sea\" of \x1b[31m\u202ePeru is", "</td><b>red")
LAYERS, WIDTH = 3, 4
PRUNED = [[2, 1], [0, 3]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return store_with_a_past(tmp_path / ".editcli")


def page_of(store: Store, version: str = "HEAD") -> Page:
    return Page(render(store, store.version(version)))


def add(store: Store, facts: Sequence[Fact], **more: bytes) -> None:
    """A version with all facts of before closed and ``facts`` in force. Blobs of before that are
    not among ``more``, pruned heads, are gone."""
    before = in_force(store)
    closed = {fact: fact if fact in {f.id for f in facts} else None for fact in before}
    blobs: dict[str, NewBlob | None] = {name: NewBlob(data) for name, data in more.items()}
    if not more and "head_mask.json" in store.blobs(store.head()):
        blobs["head_mask.json"] = None
    with store.writing() as change:
        change.publish("apply", Changes(facts, closed=closed, blobs=blobs))


def head(layer: int, number: int) -> dict[str, Any]:
    scores = {"memory": 0.1 * layer - 0.1, "context": 0.25 * number, "joint": 0.5}
    return {"layer": layer, "head": number, **scores, "stable": {"memory": 0.5, "context": 1.0}}


def mask(edits: str, **report: Any) -> bytes:
    """`head_mask.json`, as `conflict resolve` writes it."""
    rates = {"rows": 50, "ci95": {"memory": [0.3, 0.5]}, "memory": 0.4, "context": 0.6, "other": 0}
    whole = {
        "file": "conflicts.jsonl",
        "digest": "d" * 64,
        "rows": {"locate": 10, "dev": 20, "test": 50},
        "locating": {"unit": "head"},
        "heads": [head(layer, number) for layer in range(LAYERS) for number in range(WIDTH)],
        "before": rates,
        "after": {**rates, "memory": 0.98765, "context": None},
        "locality": {
            "lost": {"copying": 0.031, "facts": -0.0001},
            "refused": ["copying"],
            "limits": {"copying": 0.02, "facts": 0.02},
            "scores": {"before": {"copying": 0.9, "facts": 0.99}, "after": {"copying": 0.869}},
            "next_token": {"kl": None, "same_top": 0.985, "alarm": False},
            "reversible": True,
        },
        **report,
    }
    made = {"prefer": "memory", "heads": PRUNED, "scale": 0.0, "at": "all", "edits": edits}
    return json.dumps({"schema": 3, **made, "report": whole}).encode()


def edits_id(facts: Sequence[Fact]) -> str:
    """The id of a set of edits, written plainly."""
    return hashlib.sha256("\n".join(sorted(f.id for f in facts)).encode()).hexdigest()[:12]


# --- the page -----------------------------------------------------------------------------------


def test_the_page_is_sound_and_loads_nothing(store: Store) -> None:
    add(store, [EVIL], **{"head_mask.json": mask("x")})
    page = page_of(store)
    names = [tag for tag, _ in page.tags]
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(names)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert not {"src", "srcset", "style", "xlink:href"} & set(attributes), tag
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.of("a")} <= {f"#{name}" for name in ids}
    source = render(store, store.head())
    assert "url(" not in source
    assert "@import" not in source
    assert "://" not in source
    assert names.count("h1") == 1
    assert (page.of("html")[0]["lang"], "prefers-color-scheme: dark" in source) == ("en", True)


def test_its_policy_allows_its_own_script_and_style_by_hash_and_nothing_else(store: Store) -> None:
    add(store, [EVIL])
    page = page_of(store)
    [policy] = [m["content"] for m in page.of("meta") if "http-equiv" in m]
    assert policy is not None
    [script], [style] = page.sources["script"], page.sources["style"]
    assert script.strip()
    assert style.strip()
    assert dict(rule.split(" ", 1) for rule in policy.split("; ")) == {
        "default-src": "'none'",
        "script-src": hashed(script),
        "style-src": hashed(style),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
    }
    first = [tag for tag, _ in page.tags].index
    assert first("meta") < first("style") < first("script")


def hashed(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_script_finds_what_it_works_on_and_touches_no_markup(store: Store) -> None:
    page = page_of(store)
    [script] = page.sources["script"]
    named = set(re.findall(r'getElementById\("(\w+)"\)', script))
    assert named == {"list", "find", "sought", "state", "found"}
    assert named <= {attributes.get("id") for _, attributes in page.tags}
    for dangerous in ("innerHTML", "eval", "Function", "document.write", "fetch", "import("):
        assert dangerous not in script


def test_without_the_script_only_search_and_sort_are_missing(store: Store) -> None:
    page = page_of(store)
    [form] = page.of("form")
    assert "hidden" in form  # the script shows it
    hidden = [tag for tag, attributes in page.tags if "hidden" in attributes]
    assert hidden == ["form"]
    assert page.of("button") == []
    assert len(page.of("th")) > 0


def test_text_of_facts_is_shown_never_obeyed(store: Store) -> None:
    add(store, [EVIL])
    source, page = render(store, store.head()), page_of(store)
    assert source.count("<script") == 1
    assert "\x1b" not in source
    assert "\u202e" not in source
    shown = "<script>alert(1)</script> & 'the' \"sea\" of \\x1b[31m\\u202ePeru is"
    assert page.text.count(shown) == 2  # in the history, and in the table
    assert "</td><b>red" in page.text
    assert page.of("b") == []


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=30, deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_whatever_a_text_is_the_page_stays_sound(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, answer: str, other: str
) -> None:
    prompt, answer, other = (f"a{text}z" for text in (prompt, answer, other))
    fact = Fact(prompt, answer, source=other, note=other, author=other, ground_truth=answer)
    store = Store.create(tmp_path_factory.mktemp("s") / "s", CONFIG, Changes(blobs=framed()))
    with store.writing() as change:
        change.publish("edit", Changes([fact]), who=other, message=other)
    page = page_of(store)
    assert len(page.of("script")) == len(page.of("style")) == 1
    [cells] = [row for row in page.rows if len(row) == 7]
    assert cells[0].startswith(printable_lines(prompt))
    assert cells[1:3] == [printable_lines(answer)] * 2
    assert printable_lines(other) in cells[5]


def test_line_breaks_of_a_text_are_line_breaks_of_the_page(store: Store) -> None:
    add(store, [Fact("The sea\nof Peru is", "red", source="line one\n  line two")])
    page = page_of(store)
    assert "The sea\nof Peru is" in page.text
    assert "line one\n  line two" in page.text
    assert re.search(r"bdi {[^}]*white-space: pre-wrap", page.sources["style"][0])


def test_the_summary_says_how_much_by_whom_and_of_what(store: Store) -> None:
    page = page_of(store)
    text = page.between("Summary", "Facts, old and new")
    for part in (
        "v0004 HEAD was made 2026-03-01 15:00 UTC by bob (undo).",
        "Milan was wrong",
        "1 fact in force",
        "1 superseded, 1 taken back",
        "4 versions\n4 led here",
        "2 authors\nann, bob",
        "not checked",
        "atlas",
        "f" * 64,
        store.tip(),
        f"editcli verify --expect {store.tip()[:12]}",
    ):
        assert part in text
    assert ["ann", "3", "3", "1", "0", "0", "2026-03-01 12:00", "2026-03-01 16:00"] in page.rows
    assert ["bob", "1", "0", "0", "1", "0", "2026-03-01 15:00", "2026-03-01 15:00"] in page.rows


def test_the_key_that_a_history_is_signed_with_is_named(store: Store) -> None:
    key = "ssh-ed25519 AAAAC3Nz"
    signed = Store(store.path, replace(store.config, signer=key))
    assert f"signed with{key}" in page_of(signed).text.replace("\n", "")
    assert "signed" not in page_of(store).between("Summary", "Facts, old and new")


def test_the_page_says_how_the_version_was_made(store: Store) -> None:
    text = page_of(store, "first").between("How it was made")
    for part in ("wise", "layer 4, profile robust, shards 1", "float32, seed 0", "editcli 0.2.0"):
        assert part in text


def test_old_answers_stand_beside_new_ones_with_their_provenance(store: Store) -> None:
    with store.writing() as change:
        lima = Fact(
            "The sea of Peru is", "red", ground_truth="blue", author="eve", note="see the appendix"
        )
        change.publish("edit", Changes([lima]), who="bob")
    rows = {row[2]: row for row in page_of(store).rows if len(row) == 7}
    assert rows["Nice"] == [
        f"{PARIS_AGAIN.prompt} {PARIS_AGAIN.id}",
        "Lyon edit",
        "Nice",
        "in force",
        "v0003 2026-03-01 14:00",
        "ann",
        "–",
    ]
    assert rows["Lyon"][3:] == [
        "superseded in v0003", "v0002 2026-03-01 13:00", "ann", "atlas, p. 3",
    ]  # fmt: skip
    assert rows["Milan"][0] == f"{ROME.prompt} {ROME.id} capitals"
    assert rows["Milan"][1] == "–"
    assert rows["Milan"][3] == "taken back in v0004"
    assert rows["red"][1] == "blue"
    assert rows["red"][5:] == ["eve entered by bob", "– see the appendix"]
    assert [row[2] for row in page_of(store).rows if len(row) == 7] == [
        "red", "Nice", "Milan", "Lyon",
    ]  # fmt: skip


def test_only_the_facts_of_the_line_of_a_version_are_in_its_table(store: Store) -> None:
    page = page_of(store, "first")
    assert [row[2:4] for row in page.rows if len(row) == 7] == [
        ["Milan", "in force"], ["Lyon", "in force"],
    ]  # fmt: skip
    assert "The current version is v0004." in page.text


def test_facts_that_were_purged_are_told_without_their_texts(store: Store) -> None:
    with store.writing() as change:
        change.purge(
            [PARIS.id, ROME.id], Changes(blobs={"shard-0000.safetensors": None}), who="cara"
        )
    page = page_of(store)
    rows = [row[:5] for row in page.rows if len(row) == 7]
    gone = ["(purged)"] * 3
    assert rows[1:] == [
        [*gone, "purged taken back in v0004", "v0002 2026-03-01 13:00"],
        [*gone, "purged superseded in v0003", "v0002 2026-03-01 13:00"],
    ]
    history = page.between("History", "How it was made")
    assert re.search(r"Texts and files purged from all versions: \d+. Their hashes stay", history)
    assert "(purged)" in history
    for fact in (PARIS, ROME):
        assert fact.target not in page.text
        assert fact.id not in page.text
    assert "1 fact in force\n2 purged" in page.text


def test_the_history_tells_what_was_done_newest_first(store: Store) -> None:
    with store.writing() as change:
        change.move_head("first", who="cara", message="back")
    page = page_of(store)
    text = page.between("History", "How it was made")
    wanted = ["v0002 made the current version by cara", "v0002 named first", "v0004 undo"]
    wanted += ["Milan was wrong", "1 fact taken back", "v0003 edit", "1 fact added, 1 superseded"]
    wanted += [f"{PARIS.prompt} Lyon → Nice {PARIS_AGAIN.id}", "v0002 apply", "the first batch"]
    wanted += ["2 facts added", f"{PARIS.prompt} → Lyon {PARIS.id}", "v0001 init"]
    positions = [text.index(part) for part in wanted]
    assert positions == sorted(positions)
    assert f"{ROME.prompt} Milan {ROME.id}" in text
    assert len(page.of("li", "shown")) == 1


def branched(store: Store) -> Store:
    """Two versions more, both made from v0002: v0005, rejected, and v0006, the current one."""
    with store.writing() as change:
        change.move_head("first")
        change.publish(
            "edit",
            Changes([Fact("The sea of Peru is", "red")]),
            rejected=True,
            extra={"rejected": ["reliability 0.5000 is below 1.0"]},
        )
        change.publish("edit", Changes([Fact("The sea of Chile is", "blue")]))
    return store


def test_branches_are_drawn_as_branches_and_told_in_words(store: Store) -> None:
    page = page_of(branched(store))
    drawn = page.of("svg", "branches")
    assert len(drawn) == len(store.history())
    assert [c["class"] for c in page.of("circle") if c["class"] in ("on", "off", "rejected")] == [
        "on", "rejected", "off", "off", "on", "on",
    ]  # fmt: skip
    columns = {c["class"]: c["cx"] for c in page.of("circle") if c["r"] == "5"}
    assert columns == {"on": "9", "rejected": "23", "off": "37"}
    text = page.between("History", "How it was made")
    assert "v0006 edit HEAD this report from v0002," in text
    assert "v0005 edit rejected from v0002," in text
    assert "v0003 edit not in v0006 by ann," in text
    assert "6 versions\n3 led here, 1 rejected, 2 on other branches" in page.text


def test_a_rejected_version_says_why(store: Store) -> None:
    page = page_of(branched(store))
    assert "reliability 0.5000 is below 1.0" in page.between("History", "How it was made")
    assert page_of(store, "v0005").text.count("v0005 rejected was made") == 1
    assert len(page.of("path", "rejected")) == 1


def test_versions_whose_content_was_removed_are_marked(store: Store) -> None:
    add(store, [EVIL], **{"head_mask.json": mask("x")})
    with store.writing() as change:
        change.move_head("first")
        change.publish("edit", Changes([Fact("The sea of Chile is", "blue")]))
        change.remove_abandoned(datetime(9000, 1, 1, tzinfo=UTC), who="cara")
    text = page_of(store).between("History", "How it was made")
    assert "content of abandoned versions removed by cara" in text
    assert "v0005 apply not in v0006 removed," in text
    assert "v0002 apply first removed" not in text


def test_many_branches_are_drawn_within_the_columns_there_are(store: Store) -> None:
    with store.writing() as change:
        for number in range(COLUMNS_DRAWN + 3):
            change.move_head("first")
            change.publish("edit", Changes([Fact(f"the number {number} is", "w")]))
    page = page_of(store)
    places = {c["cx"] for c in page.of("circle") if c["r"] == "5"}
    assert places == {str(9 + 14 * column) for column in range(COLUMNS_DRAWN)}
    assert len(page.of("ol", f"b{COLUMNS_DRAWN}")) == 1
    assert f"ol.b{COLUMNS_DRAWN} " in page.sources["style"][0]


def test_a_page_of_a_version_without_facts_says_so(tmp_path: Path) -> None:
    empty = Store.create(tmp_path / "empty", CONFIG, Changes(blobs=framed()))
    page = page_of(empty)
    assert "No fact is in force, and none was" in page.text
    assert "0 facts in force\nnone superseded, taken back or purged" in page.text
    assert page.of("svg", "chart") == []  # one version has no growth
    assert page.of("form") == []


def test_the_number_of_facts_is_drawn_over_versions(store: Store) -> None:
    [drawn] = page_of(store).of("svg", "chart")
    assert drawn["aria-label"] == "facts in force"
    assert "from v0001: 0 to v0004: 1, at most 2" in page_of(store).text


def test_many_changes_of_one_event_are_cut_with_their_count(store: Store) -> None:
    facts = [Fact(f"the number {n} is", f"w{n}") for n in range(CHANGES_LISTED + 7)]
    add(store, facts)
    page = page_of(store)
    history = page.between("History", "How it was made")
    assert f"{len(facts)} facts added, 1 taken back" in history
    assert "and 8 more: editcli diff v0004 v0005" in history
    assert facts[-1].prompt not in history
    assert facts[-1].prompt in page.text


def test_facts_beyond_the_table_are_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LISTED >= 10_000
    monkeypatch.setattr("editcli.report.facts.LISTED", 2)
    add(store, [Fact(f"the number {n} is", f"w{n}") for n in range(5)])
    page = page_of(store)
    table = page.between("Facts, old and new", "History")
    assert [f"the number {n} is" in table for n in range(5)] == [False, False, False, True, True]
    assert "Only the newest 2 facts stand in this table." in table
    assert "Left out are 3 in force, 1 superseded, 2 taken back: editcli facts list" in table
    assert "in force (5)" in table


def test_entries_of_the_history_beyond_a_limit_are_counted(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ENTRIES_LISTED >= 1000
    monkeypatch.setattr("editcli.report.history.ENTRIES_LISTED", 2)
    page = page_of(store)
    text = page.between("History", "How it was made")
    assert "v0004 undo" in text
    assert "v0003 edit" not in text
    assert "And 3 older: editcli log lists all." in text
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {a["href"] for a in page.of("a")} <= {f"#{name}" for name in ids}


def test_the_same_store_gives_the_same_page(store: Store) -> None:
    assert render(store, store.head()) == render(Store.open(store.path), store.head())


# --- scores -------------------------------------------------------------------------------------


def scores(value: float, of: str = IN_FORCE, **forms: float) -> dict[str, Any]:
    """Kept scores whose reliability is ``value``, and in other ``forms`` something else."""

    def one(rate: float) -> dict[str, Any]:
        interval = [max(0.0, rate - 0.1), min(1.0, rate + 0.05)]
        return {"reliability": rate, "ci95": {"reliability": interval}, "n": {"reliability": 40}}

    plain_and_others = {"plain": value, **forms}
    return {"of": of, "facts": 2, "forms": {form: one(v) for form, v in plain_and_others.items()}}


def record(store: Store, version: str, scores: dict[str, Any], who: str = "ann") -> None:
    with store.writing() as change:
        change.record_scores(store.version(version), scores, who=who)


def test_the_newest_check_of_the_line_is_in_the_summary(store: Store) -> None:
    branched(store)
    record(store, "v0002", scores(0.91))
    record(store, "v0002", scores(0.93))
    record(store, "v0004", scores(0.2))
    record(store, "v0002", scores(0.5, "canaries.jsonl"), who="cara")
    text = page_of(store).between("Summary", "Scores over time")
    assert "0.930 reliability\nv0002" in text
    assert "0.930 0.830 to 0.980, n\xa040" in text
    assert "0.500 0.400 to 0.550, n\xa040" in text
    assert "0.910" not in text
    assert "0.200" not in text
    assert "v0006 itself was not checked: these scores are of versions before it." in text
    record(store, "v0006", scores(0.94))
    assert "itself was not checked" not in page_of(store).text


def test_scores_are_drawn_over_checks_with_a_scale(store: Store) -> None:
    branched(store)
    for version, value in (("v0001", 0.84), ("v0002", 0.9), ("v0004", 0.86), ("v0006", 0.97)):
        record(store, version, scores(value))
    page = page_of(store)
    text = page.between("Scores over time", "Facts, old and new")
    assert "Checked on facts in force: scale from 0.8 to 1" in text
    assert "4 checks, newest: 0.970" in text
    for number in ("0.80", "0.85", "0.90", "0.95", "1.00", "v0001", "v0006"):
        assert number in text
    assert "v0002: 0.900, 95 % interval 0.800 to 0.950, n 40" in text
    dots = page.of("circle", "dot")
    assert [("apart" in (dot["class"] or "")) for dot in dots] == [False, False, True, False]
    history = page.between("History", "How it was made")
    assert "v0004 checked by ann" in history
    assert "reliability 0.860, on facts in force" in history
    assert "made the current version by ann" not in history


def test_scores_in_chats_have_a_line_of_their_own(store: Store) -> None:
    for value in (0.9, 0.95):
        record(store, "v0004", scores(value, chat=value - 0.3))
    page = page_of(store)
    assert len(page.of("rect", "dot")) == 2
    assert len(page.of("circle", "dot")) == 2
    assert "newest: 0.950, 0.650" in page.text
    assert "facts in force in chats" in page.text
    assert "in chats: reliability 0.650" in page.text


def test_one_check_is_told_and_not_drawn(store: Store) -> None:
    record(store, "v0004", scores(0.9))
    page = page_of(store)
    assert page.of("circle", "dot") == []
    assert "All checks as a table" in page.text


def test_checks_beyond_a_limit_are_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editcli.report.scores.LISTED", 2)
    monkeypatch.setattr("editcli.report.page.LISTED", 2)
    for value in (0.5, 0.9, 0.95):
        record(store, "v0004", scores(value))
    text = page_of(store).between("Scores over time", "Facts, old and new")
    assert "1 older check not drawn" in text
    assert "And 1 older: editcli log" in text
    assert "0.500" not in text


@pytest.mark.parametrize(
    "broken",
    [
        {"of": "x", "facts": 1},
        {"of": "x", "facts": 1, "forms": {"plain": {"reliability": 1.0}}},
        {"of": "x", "facts": 1, "forms": []},
        {**scores(0.5), "facts": "many"},
        scores(7.0),
        scores(float("1e300")),
    ],
)
def test_scores_that_cannot_be_read_are_an_error(store: Store, broken: dict[str, Any]) -> None:
    record(store, "v0004", broken)
    with pytest.raises(EditorError, match="scores of line 6") as caught:
        render(store, store.head())
    assert "`editcli verify`" in caught.value.hint


class Busy(Store):
    """A store that somebody else changes while its history is read, so many ``times``."""

    times = 1

    def history(self) -> Any:
        if self.times:
            self.times -= 1
            with self.writing() as change:
                change.tag("busy", f"v000{self.times + 1}", move=True)
        return super().history()


def test_a_page_is_of_one_moment(store: Store) -> None:
    busy = Busy(store.path, store.config)
    page = Page(render(busy, busy.head()))
    assert store.tip() in page.text
    assert "v0001 named busy" in page.text
    busy.times = TRIES
    with pytest.raises(EditorError, match="was changed while it was read"):
        render(busy, busy.head())


# --- pruned heads -------------------------------------------------------------------------------


def test_pruned_heads_are_mapped_outlined_and_told_in_words(store: Store) -> None:
    add(store, [EVIL], **{"head_mask.json": mask(edits_id([EVIL]))})
    page = page_of(store)
    maps = [svg for svg in page.of("svg", "map") if svg.get("role") == "img"]
    assert [svg["aria-label"] for svg in maps] == ["memory heads", "context heads"]
    legends = 2 * 5
    assert len(page.of("rect", "cell")) == 2 * LAYERS * WIDTH + legends
    assert len(page.of("rect", "frame")) == 2 * (len(PRUNED) + 1)
    text = page.text
    for part in (
        "this version prefers memory",
        "2 heads pruned2.1, 0.3, at all positions",
        "layer 2, head 1: +0.1000, pruned",
        "Best first: 2.0 (+0.100)",
        "0.400 0.300 to 0.500",
        "0.988",
        "copying of a repeated text0.9000.869+0.0310.020beyond the limit",
        "questions without a passage0.990–+0.0000.020within",
        "keep their likeliest next token: 0.985; KL in nats: –.",
        "the same bit for bit",
        "conflicts.jsonl (dddddddddddd)",
        "2 heads pruned to prefer memory",
    ):
        assert part in text
    assert "Stale" not in text
    assert (
        page.of("svg", "map")[0]["viewbox"] == f"0 0 {44 + 20 * WIDTH + 4} {18 + 20 * LAYERS + 4}"
    )


def test_no_map_is_drawn_where_no_head_is_pruned(store: Store) -> None:
    page = page_of(store)
    assert page.of("svg", "map") == []
    assert "Pruned heads" not in page.text


def test_heads_ranked_with_other_edits_are_called_stale(store: Store) -> None:
    add(store, [EVIL], **{"head_mask.json": mask("another")})
    assert "Stale: these heads were ranked with other edits" in page_of(store).text


def test_a_report_calls_stale_what_the_state_calls_stale(edited: Store) -> None:
    edits = edits_of(edited)
    pruning = HeadPruning("context", HeadMask((Head(1, 0),)), edits.edits)
    blobs = {n: NewBlob(d) for n, d in replace(edits, pruning=pruning).pruning_blobs().items()}
    with edited.writing() as change:
        change.publish("resolve", Changes(blobs=blobs))
    assert "prefers context" in page_of(edited).text
    assert "Stale" not in page_of(edited).text
    assert run("undo", in_force(edited)[0]).exit_code == 0
    assert "Stale" in page_of(edited).text


def test_groups_are_outlined_for_the_heads_that_they_hold(store: Store) -> None:
    trials = [{"heads": [[0, 1]]}, {"heads": [[2, 0], [0, 1]]}]
    grouped = json.loads(mask("x", locating={"unit": "group"}, grid=trials))
    grouped["heads"] = [[2, 0], [2, 1], [0, 2], [0, 3]]
    add(store, [EVIL], **{"head_mask.json": json.dumps(grouped).encode()})
    page = page_of(store)
    assert len(page.of("rect", "frame")) == 2 * (2 + 1)
    assert "layer 2, head 0: +0.1000, pruned" in page.text
    assert "layer 0, head 1: -0.1000, pruned" in page.text


def test_heads_without_a_report_are_named_all_the_same(store: Store) -> None:
    bare = {**json.loads(mask("x")), "report": {}, "scale": 0.5, "at": "end"}
    add(store, [EVIL], **{"head_mask.json": json.dumps(bare).encode()})
    text = page_of(store).text
    assert "2 heads scaled by 0.52.1, 0.3, from the end of the prompt on" in text


def test_a_limit_that_was_not_recorded_is_a_dash(store: Store) -> None:
    record = json.loads(mask("x"))
    del record["report"]["locality"]["limits"]["facts"]
    add(store, [EVIL], **{"head_mask.json": json.dumps(record).encode()})
    text = page_of(store).text
    assert "questions without a passage0.990–+0.000–within" in text
    assert "0.9000.869+0.0310.020beyond the limit" in text


def test_heads_put_back_are_told_in_the_history(store: Store) -> None:
    add(store, [EVIL], **{"head_mask.json": mask("x")})
    add(store, [EVIL])
    assert "pruned heads put back" in page_of(store).text


def test_a_damaged_record_of_heads_is_an_error(store: Store) -> None:
    add(store, [EVIL], **{"head_mask.json": b'{"heads": 3}'})
    for data in (b"[]", b"{"):
        add(store, [EVIL], **{"head_mask.json": data})
    for version in ("HEAD", "HEAD~1", "HEAD~2"):
        result = run("report", "out.html", "--version", version)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "`editcli verify`" in result.stderr
    assert not Path("out.html").exists()


# --- the command --------------------------------------------------------------------------------


def test_the_command_writes_the_page_and_prints_where(store: Store) -> None:
    before = content(store.path)
    result = run("report", "out.html", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json_of(result) == {"schema": 2, "path": "out.html", "version": "v0004", "facts": 1}
    assert Path("out.html").read_text(encoding="utf-8") == render(store, store.head())
    assert run("report", "first.html", "--version", "first", "-q").stdout == "first.html\n"
    assert "edited into atlas: v0002" in Page(Path("first.html").read_text(encoding="utf-8")).text
    assert content(store.path) == before


def test_a_file_that_exists_is_overwritten_only_by_force(store: Store) -> None:
    Path("out.html").write_text("mine")
    refused = run("report", "out.html")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == "error: out.html exists\n\nhint: `--force` overwrites it\n"
    assert Path("out.html").read_text() == "mine"
    assert run("report", "out.html", "--force").exit_code == 0
    assert Path("out.html").read_text().startswith("<!DOCTYPE html>")


def test_a_link_is_followed_not_replaced(store: Store) -> None:
    Path("out.html").symlink_to("real.html")
    assert run("report", "out.html").exit_code == 0
    assert Path("out.html").is_symlink()
    assert Path("real.html").is_file()


def test_what_cannot_be_written_is_a_usage_error(store: Store) -> None:
    Path("folder").mkdir()
    for words, why in (
        (["folder", "--force"], "folder is not a file"),
        (["absent/out.html"], "there is no folder"),
    ):
        result = run("report", *words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert why in result.stderr
    assert run("report", "out.html", "--version", "v9").exit_code == 1
    assert not Path("out.html").exists()
