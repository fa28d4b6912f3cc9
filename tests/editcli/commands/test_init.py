"""`editcli init` and `editcli verify`: a store is bound to its base, and stays so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from tiny_stores import PARIS, blobs, save_calibration, save_model
from typer.testing import CliRunner, Result

from editcli.app import app
from editcli.store.ledger import Ledger
from editcli.store.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder. Leave it as you found it."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module", autouse=True)
def _calibrated_on_a_small_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    path = save_calibration(tmp_path_factory.mktemp("calibration") / "phrasings.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDITCLI_CALIBRATION", str(path))
        yield


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def init(folder: Path, *arguments: str) -> Result:
    return run("init", str(folder), "--device", "cpu", *arguments)


def made(result: Result) -> Store:
    assert result.exit_code == 0, result.stderr
    return Store.open(Path(".editcli").absolute())


# --- init -----------------------------------------------------------------------------------


def test_init_binds_a_store_to_a_model(folder: Path) -> None:
    store = made(init(folder, "--layer", "0", "--seed", "7", "--author", "ann", "-m", "go"))
    config = store.config
    assert (config.base, config.revision, config.method) == (str(folder), "", "wise")
    assert (config.dtype, config.seed, config.settings["layer"]) == ("float32", 7, 0)
    assert len(config.fingerprint) == 64
    first = store.head()
    assert (first.id, first.author, first.message, first.facts) == ("v0001", "ann", "go", ())
    assert first.tools["torch"] == metadata.version("torch")


def test_init_as_json_says_what_was_chosen(folder: Path) -> None:
    result = init(folder, "--json")
    assert result.stderr == ""
    said = json.loads(result.stdout)
    assert set(said) == {
        *("schema", "store", "version", "base", "revision", "fingerprint", "method", "layer"),
        *("projection", "dtype", "seed", "settings"),
    }
    assert said["store"] == str(Path(".editcli").absolute())
    assert said["layer"] == 1
    assert said["projection"] == "model.layers.1.mlp.down_proj"


def test_init_in_a_pipe_is_tab_separated_and_ends_with_the_next_step(folder: Path) -> None:
    result = init(folder)
    assert "base\t" + str(folder) in result.stdout.splitlines()
    progress, hint = result.stderr.splitlines()
    assert progress == "preparing the router with 12 groups of phrasings"
    assert hint.startswith("hint: `editcli edit ")
    assert init(folder, "--store", "quiet", "-q").stdout == f"{Path('quiet').absolute()}\n"


def test_init_records_every_setting_of_the_method(folder: Path) -> None:
    store = made(init(folder, "--set", "shard-size=9"))
    assert store.config.settings["shard_size"] == 9
    assert store.config.settings["profile"] == "robust"


def test_the_first_version_holds_the_calibrated_router_and_no_fact(folder: Path) -> None:
    store = made(init(folder))
    first = store.head()
    assert set(first.blobs) == {"facts.jsonl", "edits.json", "router.safetensors"}
    assert store.read(first, "facts.jsonl") == b""
    again = made(init(folder, "--store", "other"))
    assert again.head().blobs == first.blobs
    assert Ledger.of(store) == Ledger.of(Store.open(Path("other").absolute()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\n{"subject": "a", "prompts": ["b", "c"]}\n\n{"subject":', "groups.jsonl:4: not JSON: "),
        ('\n{"subject": "a", "prompts": ["b"]}\n', "groups.jsonl:2: the phrasings of 'a' need at"),
        ('{"prompts": ["b", "c"]}\n', "groups.jsonl:1: a group of phrasings needs a subject"),
        ("[]\n", "groups.jsonl:1: must be a JSON object, not []"),
    ],
)
def test_a_bad_line_of_phrasings_is_named(folder: Path, text: str, message: str) -> None:
    Path("groups.jsonl").write_text(text)
    result = init(folder, "--calibration", "groups.jsonl")
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in Path.cwd().iterdir()] == ["groups.jsonl"]


def test_too_few_phrasings_are_refused(folder: Path) -> None:
    Path("groups.jsonl").write_text('{"subject": "a", "prompts": ["b", "c"]}\n')
    result = init(folder, "--calibration", "groups.jsonl")
    assert result.exit_code == 1
    assert "at least 10 groups of phrasings, not 1" in result.stderr
    assert not Path(".editcli").exists()


def test_init_never_overwrites_a_store(folder: Path, tmp_path: Path) -> None:
    before = made(init(folder)).config
    again = init(folder, "--layer", "0")
    assert again.exit_code == 1
    assert again.stdout == ""
    assert f"{tmp_path / '.editcli'} already holds a store" in again.stderr
    assert "`--store`" in again.stderr
    assert made(init(folder, "--store", "other")).config == before


def test_a_folder_in_use_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("")
    result = run("init", "no-such-model", "--store", "notes")
    assert result.exit_code == 1
    assert f"{tmp_path / 'notes'} is not an empty folder" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--layer", "9"], 1, "layer 9 is not one of 0 to 2"),
        (["--set", "shard_sise=9"], 1, "shard_size"),
        (["--set", "shard_size=-1"], 1, "shard_size"),
        (["--set", "shard_size"], 2, "cannot read the setting"),
        (["--set", "layer=1"], 2, "`--layer 1`"),
        (["--method", "wize"], 1, "`--method wise`"),
        (["--dtype", "int8"], 2, "unknown dtype 'int8'"),
        (["--device", "tpu"], 2, "'tpu'"),
        (["--calibration", "absent.jsonl"], 2, "cannot read absent.jsonl: no such file"),
    ],
)
def test_init_leaves_nothing_behind_when_it_refuses(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    result = init(folder, *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert list(Path.cwd().iterdir()) == []


def test_init_on_an_unknown_model_offline_points_to_the_embedded_one() -> None:
    result = run("init", "nobody/nothing")
    assert result.exit_code == 1
    assert result.stdout == ""
    asking, error = result.stderr.splitlines()[:2]
    assert asking == "looking for nobody/nothing on the Hub"
    assert error.startswith("error: nobody/nothing is neither a folder nor in the Hub's")
    assert "hint: `editcli init atlas` uses the embedded model\n" in result.stderr
    assert list(Path.cwd().iterdir()) == []


# --- verify ---------------------------------------------------------------------------------


def test_a_fresh_store_is_sound(folder: Path) -> None:
    made(init(folder))
    result = run("verify", "--device", "cpu")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "sound: 1 version, the base is the one it was made on\n"


def test_verify_finds_another_base(folder: Path) -> None:
    shutil.copytree(folder, "mine")
    made(init(Path("mine")))
    shutil.rmtree("mine")
    save_model(Path("mine"), "qwen3")
    result = run("verify", "--device", "cpu")
    assert result.exit_code == 1
    assert result.stdout.startswith("base model: the base model has the fingerprint ")
    assert "hint: " in result.stderr
    skipped = run("verify", "--no-base")
    assert skipped.exit_code == 0
    assert "not compared" in skipped.stdout


def test_verify_lists_a_base_that_is_gone(folder: Path) -> None:
    shutil.copytree(folder, "mine")
    made(init(Path("mine")))
    shutil.rmtree("mine")
    result = run("verify", "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert set(said) == {"schema", "sound", "base_checked", "problems"}
    assert (said["sound"], said["base_checked"]) == (False, True)
    assert [problem["what"] for problem in said["problems"]] == ["base model"]


def test_verify_lists_all_damage(folder: Path) -> None:
    store = made(init(folder))
    with store.writing() as change:
        version = change.publish("edit", blobs([PARIS]), [PARIS.id], added=[PARIS.id])
    for name in ("facts.jsonl", "edits.json"):
        store.blob_path(version, name).write_bytes(b"changed")
    result = run("verify", "--no-base")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert all("is damaged" in line for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("content", "facts", "detail"),
    [
        (blobs([PARIS]), [], "lists 0 facts, 1 are in force"),
        (blobs([]), [PARIS.id], "lists 1 facts, 0 are in force"),
        ({"facts.jsonl": b""}, [], "v0002 has facts.jsonl but no edits.json"),
    ],
)
def test_verify_compares_the_facts_with_the_manifest(
    folder: Path, content: dict[str, bytes], facts: list[str], detail: str
) -> None:
    store = made(init(folder))
    with store.writing() as change:
        change.publish("edit", content, facts)
    result = run("verify", "--no-base")
    assert result.exit_code == 1
    assert result.stdout == f"versions/v0002.json: {detail}\n"


def test_a_flag_that_makes_no_sense_says_nothing_about_the_store(folder: Path) -> None:
    made(init(folder))
    assert run("verify", "--dtype", "int8").exit_code == 2
