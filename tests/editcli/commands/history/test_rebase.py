"""`editcli rebase`: the same base in another place, or another base on which facts are trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_edits import FACTS, FAST, FRANCE
from tiny_stores import content, in_force, json_of, run, save_facts, save_model

from editcli.store.store import Store
from editors import EditorError


@pytest.fixture
def store(
    model_folder: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    """A store on the model in the folder `mine`, with two facts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITCLI_CALIBRATION", str(calibration))
    shutil.copytree(model_folder, "mine")
    settings = [f"--set={key}={value}" for key, value in FAST.items()]
    assert run("init", "mine", *settings).exit_code == 0
    save_facts(Path("facts.jsonl"), FACTS[:2])
    assert run("apply", "facts.jsonl").exit_code == 0
    return Store.open(Path(".editcli").absolute())


def other_model(place: str) -> str:
    """A folder with the model of `mine` after some more training: all of its weights differ."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree("mine", place)
    path = Path(place, "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    return place


def answer(store: Store, *options: str) -> str:
    return run("ask", FRANCE.prompt, *options).stdout.strip()


def test_the_same_base_elsewhere_changes_the_configuration_alone(store: Store) -> None:
    blobs = store.blobs(store.head())
    Path("mine").rename("there")
    record = json_of(run("rebase", "there", "--json"))
    assert (record["version"], record["trained"], record["scores_after"]) == ("v0003", 0, None)
    moved = Store.open(store.path)
    assert moved.config.base == str(Path("there").absolute())
    assert moved.blobs(moved.head()) == blobs
    assert run("verify").exit_code == 0
    assert answer(moved) == FRANCE.target
    # Where the base is belongs to no version.
    assert run("checkout", "v0002").exit_code == 0
    assert answer(moved) == FRANCE.target
    again = run("rebase", "there", "--json")
    assert json_of(again)["version"] == "v0002"


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(store: Store) -> None:
    before = content(store.path)
    other = other_model("other")
    for model, trained in (("mine", 0), (other, 2)):
        told = json_of(run("rebase", model, "--dry-run", "--json"))
        assert (told["version"], told["dry_run"], told["trained"]) == (None, True, trained)
    assert "would move to " in run("rebase", other, "--dry-run").stdout
    assert content(store.path) == before


def test_another_base_takes_the_facts_in_one_version_and_checkout_goes_back(store: Store) -> None:
    other = other_model("other")
    facts = in_force(store)
    result = run("rebase", other, "--json", "-m", "the new release")
    assert result.exit_code == 0, result.stderr
    record = json_of(result)
    assert (record["version"], record["trained"], record["failed"]) == ("v0003", 2, [])
    assert record["scores_before"]["forms"]["plain"]["reliability"] == 1
    assert record["scores_after"]["forms"]["plain"]["reliability"] == 1
    moved = Store.open(store.path)
    assert in_force(moved) == facts
    assert moved.config.fingerprint == record["fingerprint"] != store.config.fingerprint
    assert moved.scores(moved.head())
    assert answer(moved) == FRANCE.target
    assert run("verify").exit_code == 0
    # The version before belongs to the old base.
    assert run("checkout", "v0002").exit_code == 0
    assert Store.open(store.path).config == store.config
    assert answer(moved) == FRANCE.target
    assert run("verify").exit_code == 0
    assert run("checkout", "v0003").exit_code == 0
    undone = run("undo", "--last")
    assert undone.exit_code == 0, undone.stderr
    assert Store.open(store.path).config == store.config
    assert answer(moved) == FRANCE.target
    assert run("verify").exit_code == 0


def test_a_table_shows_the_scores_before_and_after(store: Store) -> None:
    result = run("rebase", other_model("other"))
    assert result.stdout.startswith("v0003: on other, 2 facts trained on it\n")
    assert "reliability\t1.000\t1.000\t2\n" in result.stdout


def test_a_base_that_is_gone_leaves_the_scores_before_out(store: Store) -> None:
    other = other_model("other")
    shutil.rmtree("mine")
    result = run("rebase", other, "--json")
    assert result.exit_code == 0, result.stderr
    assert json_of(result)["scores_before"] is None


def refused(store: Store, *words: str) -> str:
    before = content(store.path)
    result = run("rebase", *words)
    assert result.exit_code in (1, 2, 3)
    after = content(store.path)
    names = [name for name in after if not name.startswith(("lock", "journal"))]
    assert {name: after[name] for name in names} == {name: before[name] for name in names}
    return result.stderr


def test_what_does_not_fit_changes_nothing_and_says_what_to_do(store: Store) -> None:
    small = save_model(Path("mixture"), "mixtral")
    error = refused(store, str(small))
    assert "the store cannot move to mixture: layer 1 cannot be edited" in error
    assert "`editcli init MODEL --store DIR`" in error
    error = refused(store, str(save_model(Path("short"), "llama")), "--layer", "7")
    assert "layer 7 is not one of 0 to 2" in error
    assert "no such folder" in refused(store, "./gone")


def test_a_score_below_a_minimum_changes_nothing(store: Store) -> None:
    error = refused(store, other_model("other"), "--min-generalization", "1")
    assert "nothing is changed: on other, generalization" in error


def test_training_that_fails_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EditorError("the disk is gone")

    other = other_model("other")
    monkeypatch.setattr("editors.methods.base.Method.close", fail)
    assert "the disk is gone" in refused(store, other)
