"""Every command that writes to a store, with a store for each that it has something to do in."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

from tiny_conflicts import NEUTRAL, fifteen_rows, rows_by_winner, write
from tiny_edits import FACTS, FAST, FRANCE_AGAIN, JAPAN, PERU
from tiny_stores import run, save_calibration, save_facts, save_model

from editcli.store.store import Store
from editors import Fact

STORE = ".editcli"
EDITS = Path(__file__).parents[2] / "datasets" / "atlas" / "edits.jsonl"
OLD_STORES = Path(__file__).parents[1] / "data" / "stores-0.2"
MORE = (
    FRANCE_AGAIN,
    Fact("the sea of Egypt is", "Cairo", subject="Egypt"),
    Fact("the leader of Kenya is", "Ann", subject="Kenya"),
)
SPAIN = ("the city of Spain is", "Oslo", "-s", "Spain")


@dataclass(frozen=True, slots=True)
class WritingCommand:
    """A command that writes; ``home``: the folder in which it is called, with a store in it;
    ``purged``: texts that it takes out of the store; ``model``: the place of the base."""

    name: str
    words: Sequence[str]
    home: Path
    model: Path
    purged: Sequence[str] = ()


def done(*words: str, store: Path) -> None:
    """Call a command that has to end well."""
    result = run(*words, "--store", str(store))
    assert result.exit_code == 0, (words, result.stderr)


def store_with_a_past(home: Path, model: Path) -> None:
    """A store on the tiny model with all that a command may meet: closed, superseded and undone
    facts, a tag, scores, a blob of no version, and work that was not published."""
    store = home / STORE
    calibration = save_calibration(home / "phrasings.jsonl")
    settings = [f"--set={key}={value}" for key, value in {**FAST, "shard_size": 2}.items()]
    done("init", str(model), "--calibration", str(calibration), *settings, store=store)
    done("apply", str(save_facts(home / "f.jsonl", FACTS)), "-m", "the first batch", store=store)
    done("tag", "release", store=store)
    done("edit", *SPAIN, "-m", "about Spain", store=store)
    done("edit", *SPAIN[:1], "Lima", *SPAIN[2:], store=store)
    done("check", "--protocol", "generate", store=store)
    done("undo", PERU.id, store=store)
    save_facts(home / "more.jsonl", MORE)
    stray = b"of a command that was killed"
    (store / "blobs" / sha256(stray).hexdigest()).write_bytes(stray)
    Store.open(store).journal.put("ab", b"trained, and not published")


def make_stores(folder: Path) -> None:
    """Make the stores that :func:`writing_commands` are called in."""
    model = save_model(folder / "model")
    past, resolving, old = folder / "past", folder / "resolving", folder / "old"
    for home in (past, old):
        home.mkdir()
    store_with_a_past(past, model)
    shutil.copytree(past, resolving)
    write(fifteen_rows(rows_by_winner()), resolving / "c.jsonl")
    (resolving / "neutral.txt").write_text(NEUTRAL)
    shutil.copytree(OLD_STORES / "wise", old / STORE)


def writing_commands(folder: Path) -> list[WritingCommand]:
    """All of them, for the stores that :func:`make_stores` has made below ``folder``."""
    model = folder / "model"
    on_past = partial(WritingCommand, home=folder / "past", model=model)
    resolve = "conflict resolve c.jsonl --neutral neutral.txt --prefer memory --heads 2 --force"
    return [
        on_past("edit", ("edit", "the sea of Egypt is", "Cairo", "-s", "Egypt", "-m", "why not")),
        on_past("apply", ("apply", "more.jsonl")),
        on_past("undo", ("undo", JAPAN.id)),
        on_past("undo --purge", ("undo", JAPAN.id, "--purge"), purged=(JAPAN.id, "Japan")),
        on_past("undo --last", ("undo", "--last")),
        on_past("tag", ("tag", "good")),
        on_past("tag --delete", ("tag", "release", "--delete")),
        on_past("checkout", ("checkout", "release")),
        on_past("compact", ("compact",)),
        on_past("gc", ("gc", "--grace", "0")),
        WritingCommand("migrate", ("migrate",), folder / "old", OLD_STORES / "model"),
        on_past("check", ("check", "--protocol", "generate")),
        WritingCommand("conflict resolve", resolve.split(), folder / "resolving", model),
    ]


def make_atlas_store(folder: Path) -> None:
    """Make the store that :func:`atlas_commands` are called in."""
    home = folder / "atlas"
    home.mkdir()
    done("init", "atlas", store=home / STORE)
    edits = EDITS.read_text(encoding="utf-8").splitlines(keepends=True)
    for name, lines in (("f.jsonl", edits[:20]), ("more.jsonl", edits[20:30])):
        (home / name).write_text("".join(lines), encoding="utf-8")
    done("apply", str(home / "f.jsonl"), store=home / STORE)


def atlas_commands(folder: Path) -> list[WritingCommand]:
    """Commands that train, for the store that :func:`make_atlas_store` has made below
    ``folder``."""
    home = folder / "atlas"
    store = Store.open(home / STORE)
    gone = [entry.fact.id for entry in store.in_force(store.head()) if entry.fact][:2]
    hamlet = ("Who wrote Hamlet?", "Jane Austen", "--subject", "Hamlet")
    on_atlas = partial(WritingCommand, home=home, model=Path("atlas"))
    return [
        on_atlas("edit", ("edit", *hamlet)),
        on_atlas("apply", ("apply", "more.jsonl")),
        on_atlas("undo --purge", ("undo", *gone, "--purge"), purged=gone),
    ]
