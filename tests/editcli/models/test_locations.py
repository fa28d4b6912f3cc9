"""Where a model is: the embedded one, a folder, or a Hub id at one commit."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_adapters import save_adapter
from tiny_stores import CONFIG

from editcli.models.loading import load_base
from editcli.models.locations import ModelLocation, find_model, resolve
from editcli.models.recorded.store_base import load_store_base
from editors import EditorError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def cached(hub_cache: Path, model_folder: Path) -> str:
    """The Hub id of a model in the cache, whose main is at COMMIT."""
    folder = hub_cache / "models--org--tiny"
    shutil.copytree(model_folder, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return "org/tiny"


def refusal(name: str) -> EditorError:
    """How `name` is refused, in the same words before a store is made and when it is opened."""
    with pytest.raises(EditorError) as caught:
        load_base(name, device="cpu")
    with pytest.raises(EditorError) as resolving:
        resolve(name)
    error = caught.value
    assert (resolving.value.message, resolving.value.hint) == (error.message, error.hint)
    assert error.hint
    assert not error.message.endswith(".")
    assert "\n" not in error.message
    return error


def test_a_folder_resolves_to_its_absolute_path(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model_folder.parent)
    assert resolve("tiny") == (str(model_folder), "")
    assert resolve("./tiny/") == (str(model_folder), "")
    assert find_model("tiny") == ModelLocation("tiny", str(model_folder))


def test_a_folder_may_begin_with_the_home_folder(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(model_folder.parent))
    assert resolve("~/tiny") == (str(model_folder), "")


def test_a_hub_id_resolves_to_the_commit_its_revision_means(cached: str) -> None:
    for name in (cached, f"{cached}@main", f"{cached}@{COMMIT}"):
        assert resolve(name) == (cached, COMMIT)
        assert find_model(name).revision
    base = load_base(cached, revision=COMMIT, device="cpu")
    config = replace(
        CONFIG,
        base=cached,
        fingerprint=base.fingerprint(),
        revision=COMMIT,
        layer=base.layer,
    )
    assert load_store_base(config, device="cpu").fingerprint() == base.fingerprint()


def test_a_revision_that_the_cache_lacks_is_named(cached: str) -> None:
    assert refusal(f"{cached}@v2").message.startswith(f"{cached}@v2 is neither a folder nor in")


def test_the_embedded_model_keeps_its_name(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editcli.models.locations.datasets_dir", lambda: tmp_path)
    assert "embedded model is not part" in refusal("atlas").message
    shutil.copytree(model_folder, tmp_path / "atlas" / "model")
    assert resolve("atlas") == ("atlas", "")
    assert not find_model("atlas").revision
    assert load_base("atlas", device="cpu").layer == 1


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing@v2", "atals"])
def test_an_unknown_id_without_a_network_names_the_id_and_the_way_out(
    name: str, hub_cache: Path
) -> None:
    error = refusal(name)
    assert error.message.startswith(f"{name} is neither a folder nor in the Hub's cache")
    assert "cannot be reached" in error.message
    assert "`editcli init atlas`" in error.hint


@pytest.mark.parametrize(
    "name", ["./absent", "/no/such/folder", "a/b/c", "", "with space", "~nobody/x"]
)
def test_what_can_be_no_id_is_a_folder_that_is_not_there(name: str) -> None:
    error = refusal(name)
    assert repr(name) in error.message
    assert "Hub id" in error.hint


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)).message == f"{tmp_path} holds no config.json"


def test_an_adapter_beside_weights_on_the_hub_is_a_question(cached: str, hub_cache: Path) -> None:
    plain = load_base(cached, revision=COMMIT, device="cpu")
    snapshot = hub_cache / "models--org--tiny" / "snapshots" / COMMIT
    save_adapter(snapshot, snapshot)
    messages = {
        "": "is it part of the base?",
        "use": "is on the Hub, and an adapter is merged from a folder only",
    }
    for choice, why in messages.items():
        with pytest.raises(EditorError, match=re.escape(why)):
            load_base(cached, revision=COMMIT, device="cpu", adapter=choice)
    alone = load_base(cached, revision=COMMIT, device="cpu", adapter="ignore")
    assert alone.fingerprint() == plain.fingerprint()


def test_an_adapter_alone_on_the_hub_is_fetched_by_hand(cached: str, hub_cache: Path) -> None:
    folder = hub_cache / "models--org--tiny"
    missing = folder / ".no_exist" / COMMIT / "config.json"
    missing.parent.mkdir(parents=True)
    missing.touch()
    (folder / "snapshots" / COMMIT / "config.json").unlink()
    error = refusal(f"{cached}@{COMMIT}")
    assert error.message.endswith("holds no config.json")
    assert f"`hf download {cached} --local-dir FOLDER`" in error.hint
