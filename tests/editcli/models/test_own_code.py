"""Bases whose code comes with them: run only if the user says so, and only as it was then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_edits import FAST, FRANCE
from tiny_stores import json_of, run, save_model
from typer.testing import Result

import editcli
import editors
from editcli.models.loading import load_base
from editcli.store.store import Store
from editors import EditorError, StateMismatch

CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

with Path({log!r}).open("a") as log:
    log.write("ran\\n")


class MineConfig(LlamaConfig):
    model_type = "mine"


class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""
AUTO_MAP = {
    "AutoConfig": "modeling_mine.MineConfig",
    "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file that the code writes a line into when it is run."""
    return tmp_path / "log"


@pytest.fixture
def mine(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of a type that only the code beside it knows."""
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
    monkeypatch.chdir(tmp_path)
    # The modules of a folder are known by its name.
    folder = save_model(tmp_path / f"mine_{tmp_path.name}")
    (folder / "modeling_mine.py").write_text(CODE.format(log=str(log)))
    rewrite(folder, model_type="mine", auto_map=AUTO_MAP)
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def init(folder: Path, calibration: Path, *options: str) -> Result:
    settings = [f"--set={key}={value}" for key, value in FAST.items()]
    return run("init", str(folder), "--calibration", str(calibration), *settings, *options)


@pytest.fixture
def store(mine: Path, calibration: Path) -> Store:
    """A store on the model, with one edit."""
    made = init(mine, calibration, "--trust-remote-code")
    assert made.exit_code == 0, made.stderr
    assert f"running the code that comes with {mine}" in made.stderr
    edited = run("edit", FRANCE.prompt, FRANCE.target, "--subject", "France")
    assert edited.exit_code == 0, edited.stderr
    return Store.open(Path(".editcli").absolute())


def test_without_the_flag_the_code_is_not_run(mine: Path, log: Path, calibration: Path) -> None:
    refused = init(mine, calibration)
    assert refused.exit_code == 1
    assert "needs code of its own" in refused.stderr
    assert "`editcli init MODEL --trust-remote-code`" in refused.stderr
    assert not log.exists()


def test_every_command_that_loads_the_base_honours_the_store(store: Store, mine: Path) -> None:
    assert run("ask", FRANCE.prompt).stdout == f"{FRANCE.target}\n"
    for words in (["verify"], ["check"], ["export", "HEAD", "out"]):
        done = run(*words)
        assert done.exit_code == 0, done.stderr
        assert f"running the code that comes with {mine}" in done.stderr
    with editcli.load(store.path) as loaded:
        assert type(loaded.model).__name__ == "MineForCausalLM"


def test_an_export_does_not_pass_the_trust_on(store: Store, mine: Path, log: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from editors.exports.folder import opened

    assert run("export", "HEAD", "out").exit_code == 0
    assert run("export", "HEAD", "whole", "--as", "remote-code").exit_code == 1
    before = log.read_text()
    for load in (editcli.load, editors.load):
        with pytest.raises(EditorError):
            load("out")
    assert log.read_text() == before
    model = AutoModelForCausalLM.from_pretrained(mine, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(mine, trust_remote_code=True)
    with opened(model, tokenizer, Path("out")) as loaded:
        assert FRANCE.id in loaded.explain(FRANCE.prompt).why


def test_code_that_has_changed_is_refused_before_it_is_run(
    store: Store, mine: Path, log: Path
) -> None:
    before = log.read_text()
    code = mine / "modeling_mine.py"
    was = code.read_text()
    for change in (
        lambda: code.write_text(was + "\n"),
        lambda: (mine / "more.py").write_text(""),
        lambda: (code.write_text(was), rewrite(mine, auto_map={})),
    ):
        change()
        for words in (["ask", FRANCE.prompt], ["verify"]):
            refused = run(*words)
            assert refused.exit_code == StateMismatch.exit_code
            assert "is not the code that was trusted" in refused.stdout + refused.stderr
    assert log.read_text() == before
    (mine / "more.py").unlink()
    rewrite(mine, auto_map=AUTO_MAP)
    assert run("verify").exit_code == 0


def test_trust_in_a_store_is_not_trust_in_another_folder(mine: Path, log: Path) -> None:
    with pytest.raises(EditorError, match="needs code of its own"):
        load_base(str(mine), device="cpu")
    assert not log.exists()


def test_code_in_another_repository_is_refused(mine: Path, log: Path, calibration: Path) -> None:
    rewrite(mine, auto_map={key: f"org/other--{name}" for key, name in AUTO_MAP.items()})
    refused = init(mine, calibration, "--trust-remote-code")
    assert refused.exit_code == 1
    assert "org/other" in refused.stderr
    assert not log.exists()


def test_code_that_fails_is_an_error_in_words(mine: Path, calibration: Path) -> None:
    (mine / "modeling_mine.py").write_text("1 / 0\n")
    refused = init(mine, calibration, "--trust-remote-code")
    assert refused.exit_code == 1
    assert "division by zero" in refused.stderr


def test_a_model_without_code_of_its_own_is_not_trusted_with_any(
    model_folder: Path, calibration: Path, mine: Path
) -> None:
    made = init(model_folder, calibration, "--trust-remote-code")
    assert made.exit_code == 0
    assert "comes with no code of its own" in made.stderr
    assert Store.open(Path(".editcli").absolute()).config.remote_code == ""


def test_the_digest_is_told_in_json(mine: Path, calibration: Path) -> None:
    record = json_of(init(mine, calibration, "--trust-remote-code", "--json"))
    assert len(record["remote_code"]) == 64


# --- exports of editcli ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adapter", "remote-code"])
@pytest.mark.parametrize("flags", [[], ["--trust-remote-code"]])
def test_an_export_is_no_base(
    edited: Store, model_folder: Path, calibration: Path, kind: str, flags: list[str]
) -> None:
    assert run("export", "HEAD", "out", "--as", kind).exit_code == 0
    refused = init(Path("out"), calibration, "--store", "another", *flags)
    assert refused.exit_code == 1
    assert "has edits in it already" in refused.stderr
    assert f"`editcli init {model_folder}`" in refused.stderr
    (Path("out") / "edit_config.json").unlink()
    refused = init(Path("out"), calibration, "--store", "another", *flags)
    assert refused.exit_code == 1
    assert "has edits in it already" in refused.stderr or kind == "adapter"


def test_merged_weights_are_a_base(edited: Store, calibration: Path) -> None:
    assert run("export", "HEAD", "out", "--as", "merged").exit_code == 0
    made = init(Path("out"), calibration, "--store", "another")
    assert made.exit_code == 0, made.stderr
