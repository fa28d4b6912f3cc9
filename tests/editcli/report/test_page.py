"""`editcli report`: one page that loads nothing, and says what the store says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
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

from editcli.report.page import CHANGES_LISTED, FACTS_LISTED, render
from editcli.store.edits import edits_of
from editcli.store.store import Store
from editcli.store.transaction import Changes, NewBlob
from editors import Fact
from editors.heads.pruning import Head, HeadMask, HeadPruning

EVIL = Fact("<script>alert(1)</script> & 'the' \"sea\" of \x1b[31m\u202ePeru is", "</td><b>red")
VOID = {"meta", "br", "hr", "img", "input", "link"}
LAYERS, WIDTH = 3, 4
PRUNED = [[2, 1], [0, 3]]


class Page(HTMLParser):
    """A page as parsed: tags with their attributes, all text, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        """The attributes of every such tag, of that class if given."""
        return [
            attrs
            for name, attrs in self.tags
            if name == tag and (not kind or kind in (attrs.get("class") or "").split())
        ]


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
    assert not {"script", "link", "img", "iframe", "object"} & set(names)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"], tag
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"] for a in page.of("a")} <= {f"#{name}" for name in ids}
    source = render(store, store.head())
    assert "url(" not in source
    assert "@import" not in source
    assert names.count("h1") == 1
    assert (page.of("html")[0]["lang"], "prefers-color-scheme: dark" in source) == ("en", True)


def test_text_of_facts_is_shown_never_obeyed(store: Store) -> None:
    add(store, [EVIL])
    source, page = render(store, store.head()), page_of(store)
    assert "<script>" not in source
    assert "\x1b" not in source
    assert "\u202e" not in source
    shown = "<script>alert(1)</script> & 'the' \"sea\" of \\x1b[31m\\u202ePeru is"
    assert page.text.count(shown) == 2  # in the history, and in the table
    assert "</td><b>red" in page.text
    assert page.of("b") == []


def test_the_page_says_which_store_it_is_of(store: Store) -> None:
    text = page_of(store).text
    for part in (
        "atlas",
        "f" * 64,
        "wise: layer 4, profile robust, shards 2",
        "float32, seed 0",
        "2026-03-01 15:00 UTC by bob",
    ):
        assert part in text
    assert "1 in force, 2 superseded or undone" in text


def test_the_timeline_tells_what_was_done_newest_first(store: Store) -> None:
    with store.writing() as change:
        change.move_head("first", who="cara", message="back")
    page = page_of(store)
    text = page.text[page.text.index("Newest first") :]
    wanted = ["v0002 made the current version by cara", "v0002 named first", "v0004 undo"]
    wanted += ["Milan was wrong", "1 fact taken back", "v0003 edit", "1 fact added"]
    wanted += ["1 fact superseded", "v0002 apply", "the first batch", "2 facts added", "v0001 init"]
    positions = [text.index(part) for part in wanted]
    assert positions == sorted(positions)
    for fact in (PARIS, ROME, PARIS_AGAIN):  # those of versions beside HEAD's line too
        assert f"{fact.prompt} → {fact.target} {fact.id}" in text
    assert len(page.of("li", "shown")) == 1


def test_the_facts_in_force_are_told_with_the_version_they_came_with(store: Store) -> None:
    text = page_of(store, "first").text
    table = text[text.index("Facts of v0002", text.index("Newest first")) :]
    for fact in (PARIS, ROME):
        assert fact.prompt in table
        assert fact.target in table
        assert fact.id in table
    assert "atlas, p. 3" in table
    assert table.count("v0002") == 3  # in the heading, and for each fact
    assert PARIS_AGAIN.target not in table


def test_a_page_of_a_version_without_facts_says_so(tmp_path: Path) -> None:
    empty = Store.create(tmp_path / "empty", CONFIG, Changes(blobs=framed()))
    page = page_of(empty)
    assert "No fact is in force" in page.text
    assert "0 in force, 0 superseded or undone" in page.text
    assert page.of("table") == []
    assert page.of("svg") == []  # one version has no growth


def test_the_number_of_facts_is_drawn_over_versions(store: Store) -> None:
    [drawn] = page_of(store).of("svg", "steps")
    assert drawn["aria-label"] == (
        "Facts in force over 4 versions, from v0001: 0 to v0004: 1, at most 2"
    )


def test_many_changes_of_one_event_are_cut_with_their_count(store: Store) -> None:
    facts = [Fact(f"the number {n} is", f"w{n}") for n in range(CHANGES_LISTED + 7)]
    add(store, facts)
    text = page_of(store).text
    history = text[text.index("Newest first") : text.rindex(f"Facts of {store.head().id}")]
    assert f"{len(facts)} facts added" in history
    assert "and 7 more" in history
    assert facts[-1].prompt not in history
    assert facts[-1].prompt in text


def test_facts_beyond_the_table_are_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FACTS_LISTED >= 1000
    monkeypatch.setattr("editcli.report.page.FACTS_LISTED", 2)
    add(store, [Fact(f"the number {n} is", f"w{n}") for n in range(5)])
    text = page_of(store).text
    table = text[text.rindex(f"Facts of {store.head().id}") :]
    assert [f"the number {n} is" in table for n in range(5)] == [True, True, False, False, False]
    assert f"And 3 more: editcli show {store.head().id} --facts prints all." in table


def test_the_same_store_gives_the_same_page(store: Store) -> None:
    assert render(store, store.head()) == render(Store.open(store.path), store.head())


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
    assert "Facts of v0002" in Page(Path("first.html").read_text(encoding="utf-8")).text
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
