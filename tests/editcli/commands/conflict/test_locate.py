"""`editcli conflict locate`: heads ranked by how much they carry memory, and the passage."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from tiny_stores import content, json_of, run
from typer.testing import Result

from editcli.store.store import Store

Rows = list[dict[str, Any]]
Save = Callable[[Rows], None]
Sentence = Callable[[Result], str]


def locate(*words: str) -> Result:
    return run("conflict", "locate", "c.jsonl", *words)


def test_locate_ranks_every_head(store: Store) -> None:
    result = locate("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    record = json_of(result)
    assert set(record) == {
        *("schema", "version", "edits", "split", "rows", "answered_from", "collided"),
        *("settings", "seconds", "heads"),
    }
    assert (record["rows"], record["collided"]) == (5, 0)
    assert record["answered_from"] == {"memory": 3, "context": 2}
    assert record["settings"] == {
        "corruption": "each",
        "mlps": "recomputed",
        "unit": "head",
        "seed": 0,
    }
    heads = record["heads"]
    assert {(h["layer"], h["head"]) for h in heads} == set(product(range(3), range(4)))
    for head in heads:
        assert set(head) == {"layer", "head", "memory", "context", "joint", "stable"}
        assert all(0 <= share <= 1 for share in head["stable"].values())
    best = [max(h["memory"], h["context"]) for h in heads]
    assert best == sorted(best, reverse=True)
    groups = json_of(locate("--unit", "group", "--json"))["heads"]
    assert {(h["layer"], h["head"]) for h in groups} == set(product(range(3), range(2)))


def test_locate_lists_the_heads_above_zero_best_first(store: Store) -> None:
    heads = json_of(locate("--json"))["heads"]
    result = locate()
    lines = result.stdout.splitlines()
    for score in ("memory", "context"):
        at = lines.index(f"{score} heads\tmemory\tcontext\tjoint\tstable")
        ranked = sorted((h for h in heads if h[score] > 0), key=lambda h: -h[score])[:10]
        shown = [line.split("\t")[0] for line in lines[at + 1 : at + 1 + len(ranked)]]
        assert shown == [f"{h['layer']}.{h['head']}" for h in ranked]
        assert f" of these {len(ranked)} are among the ten best" in result.stderr
    quiet = locate("-q").stdout.split()
    assert quiet == [f"{h['layer']}.{h['head']}" for h in heads]


def test_locate_is_a_function_of_rows_and_seed(store: Store) -> None:
    def heads(*words: str) -> Any:
        return json_of(locate("--split", "all", "--json", *words))["heads"]

    plain = heads()
    assert heads() == plain
    assert heads("--corruption", "both") != plain
    assert heads("--mlps", "frozen") != plain


def test_locating_changes_nothing(store: Store) -> None:
    before = content(store.path)
    locate()
    assert content(store.path) == before
