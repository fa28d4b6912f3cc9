"""`editcli config`: what is in force is what is recorded, and only a command changes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from json_keys import records_of
from tiny_edits import FAST, FRANCE
from tiny_stores import CONFIG, json_of, run

from editcli.store.records import StoreConfig
from editcli.store.store import Store


@pytest.fixture
def by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in the current folder that no model is needed for."""
    monkeypatch.chdir(tmp_path)
    return Store.create(tmp_path / ".editcli", CONFIG)


def rewritten(store: Store, old: str, new: str) -> None:
    path = store.path / "config.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def in_file(store: Store) -> StoreConfig:
    return StoreConfig.from_toml((store.path / "config.toml").read_bytes())


def test_all_keys_are_listed_and_those_that_may_change_are_marked(by_hand: Store) -> None:
    rows = records_of(run("config", "--json"))
    may = {row["key"] for row in rows if row["may_change"]}
    assert may == {"base", "minima.reliability", "minima.generalization", "minima.locality"}
    assert {row["key"]: row["value"] for row in rows}["layer"] == "4"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("layer = 4", "layer = 5", "layer is 5, and 4 is recorded"),
        ('base = "atlas"', 'base = "other"', 'base is "other", and "atlas" is recorded'),
        ("seed = 0", "", "seed is absent, and 0 is recorded"),
        ("seed = 0", "seed = 0 # mine", "it says the same in other words"),
    ],
)
def test_a_change_by_hand_is_named_and_refused_by_whoever_writes(
    by_hand: Store, old: str, new: str, named: str
) -> None:
    if not new:
        rewritten(by_hand, "seed = 0\n", "")
        stored = Store(by_hand.path, CONFIG)
    else:
        rewritten(by_hand, old, new)
        stored = Store.open(by_hand.path)
    assert [f"{p.what}: {p.detail}" for p in by_hand.verify()] == [f"config.toml: {named}"]
    if new:
        result = run("tag", "now")
        assert result.exit_code == 1
        assert f"config.toml was changed by hand: {named}" in result.stderr
        assert "`editcli config restore`" in result.stderr
    with pytest.raises(Exception, match="changed by hand"), stored.writing():
        pass
    restored = run("config", "restore")
    assert restored.exit_code == 0, restored.stderr
    assert by_hand.verify() == []
    assert run("tag", "now").exit_code == 0


def test_a_configuration_that_cannot_be_read_can_be_restored(by_hand: Store) -> None:
    (by_hand.path / "config.toml").write_text("layer = [")
    refused = run("log")
    assert refused.exit_code == 1
    assert "`editcli config restore`" in refused.stderr
    assert run("config", "restore").exit_code == 0
    assert run("log").exit_code == 0
    assert in_file(by_hand) == CONFIG


def test_a_minimum_is_a_version_and_may_be_taken_away(by_hand: Store) -> None:
    record = json_of(run("config", "set", "minima.locality", "0.75", "--json"))
    assert (record["version"], in_file(by_hand).minima) == ("v0002", {"locality": 0.75})
    assert Store.open(by_hand.path).head().operation == "config"
    assert run("config", "set", "minima.locality", "none").exit_code == 0
    assert in_file(by_hand) == CONFIG
    assert by_hand.verify() == []


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("layer", "3", "does not change"),
        ("unheard", "3", "is no key of config.toml"),
        ("minima.locality", "2", "not a number from 0 to 1"),
        ("minima.locality", "much", "not a number from 0 to 1"),
    ],
)
def test_what_may_not_change_is_refused(by_hand: Store, key: str, value: str, why: str) -> None:
    result = run("config", "set", key, value)
    assert (result.exit_code, why in result.stderr) == (2, True)
    assert len(by_hand.ids()) == 1


def test_a_change_that_was_committed_and_not_written_is_in_force(by_hand: Store) -> None:
    path = by_hand.path / "config.toml"
    before = path.read_bytes()
    assert run("config", "set", "minima.locality", "0.75").exit_code == 0
    after = path.read_bytes()
    path.write_bytes(before)  # as if the process was killed before
    assert Store.open(by_hand.path).config.minima == {"locality": 0.75}
    assert run("tag", "now").exit_code == 0
    assert path.read_bytes() == after
    assert by_hand.verify() == []


def test_whoever_opened_the_store_before_a_change_does_not_write(by_hand: Store) -> None:
    assert run("config", "set", "minima.locality", "0.75").exit_code == 0
    with pytest.raises(Exception, match="changed meanwhile"), by_hand.writing():
        pass


def test_a_store_of_before_keeps_its_configuration_with_its_next_version(by_hand: Store) -> None:
    """Releases before 0.3 keep the hash alone."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(by_hand.path / "store.db", isolation_level=None)) as base:
        (digest,) = base.execute("SELECT digest FROM record WHERE name = 'config.toml'").fetchone()
    assert (by_hand.path / "blobs" / digest).read_bytes() == CONFIG.to_toml()


def test_a_change_of_the_configuration_can_be_taken_back(store: Store) -> None:
    before = Store.open(store.path).config
    assert run("config", "set", "minima.locality", "0.75").exit_code == 0
    assert Store.open(store.path).config != before
    made = Store.open(store.path).head()
    assert f"would take back {made.id}" in run("undo", "--last", "--dry-run").stdout
    undone = run("undo", "--last")
    assert (undone.exit_code, undone.stdout.split(": ")[1]) == (0, f"took back {made.id}\n")
    assert Store.open(store.path).config == before
    assert Store.open(store.path).verify() == []


def test_a_minimum_of_the_store_holds_for_edits(
    model_folder: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder, "mine")
    settings = [f"--set={key}={value}" for key, value in FAST.items()]
    assert run("init", "mine", "--calibration", str(calibration), *settings).exit_code == 0
    assert run("config", "set", "minima.generalization", "1").exit_code == 0
    words = ["edit", FRANCE.prompt, FRANCE.target, "--subject", "France"]
    refused = run(*words, "--rephrase", "the sea of Spain is")
    assert refused.exit_code == 3, refused.stderr
    assert "generalization" in refused.stderr
    # The base in another place, which is the same base.
    Path("mine").rename("there")
    moved = json_of(run("config", "set", "base", "there", "--json"))
    store = Store.open(Path(".editcli").absolute())
    assert (store.head().id, store.config.base) == (moved["version"], str(Path("there").absolute()))
    assert run("verify").exit_code == 0
    weights = bytearray(Path("there/model.safetensors").read_bytes())
    weights[-1] ^= 1
    shutil.copytree("there", "other")
    Path("other/model.safetensors").write_bytes(weights)
    other = run("config", "set", "base", "other")
    assert other.exit_code == 2
    assert "model.safetensors has the SHA-256" in other.stderr
    assert "`editcli rebase other`" in other.stderr
