"""Bases with an adapter of PEFT: merged, part of what the base is, and never used by chance."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_adapters import SCALE, TARGETS, matrices, save_adapter
from tiny_edits import FAST, FRANCE
from tiny_models import CHAT, build_tokenizer
from tiny_stores import json_of, run, save_model

import editcli
import editors
from editcli.models.loading import load_base
from editcli.store.store import Store
from editors import EditorError, StateMismatch

IDS = torch.tensor([[1, 5, 9, 20, 31, 7]])
PROMPTS = (FRANCE.prompt, "the sea of Spain is")

needs_peft = pytest.mark.skipif(util.find_spec("peft") is None, reason="peft is not installed")


@pytest.fixture
def base_folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that the test may change."""
    return Path(shutil.copytree(model_folder, tmp_path / "base"))


@pytest.fixture
def adapter(base_folder: Path, tmp_path: Path) -> Path:
    return save_adapter(tmp_path / "adapter", base_folder)


@pytest.fixture
def both(base_folder: Path) -> Path:
    """A folder with weights and an adapter beside them."""
    return save_adapter(base_folder, base_folder)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes the package peft one that can be imported, or cannot."""
    find_spec = util.find_spec

    def make(there: bool) -> None:
        hidden = () if there else ("peft",)
        monkeypatch.setattr(
            "editcli.models.libraries.find_spec",
            lambda name: None if name in hidden else find_spec(name),
        )
        for module in ("models.auto.auto_factory", "integrations.peft"):
            monkeypatch.setattr(f"transformers.{module}.is_peft_available", lambda: there)

    return make


def refusal(folder: Path, **options: Any) -> EditorError:
    with pytest.raises(EditorError) as caught:
        load_base(str(folder), device="cpu", **options)
    error = caught.value
    assert error.hint
    assert "\n" not in error.message
    return error


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def fingerprint(folder: Path, **options: Any) -> str:
    return load_base(str(folder), device="cpu", **options).fingerprint()


# --- what is loaded -------------------------------------------------------------------------


@needs_peft
def test_the_scaled_product_is_added_and_nothing_else_changes(
    adapter: Path, base_folder: Path
) -> None:
    merged = load_base(str(adapter), device="cpu").model.state_dict()
    plain = load_base(str(base_folder), device="cpu").model.state_dict()
    parts = matrices(base_folder, list(TARGETS), seed=0)
    assert parts
    assert merged.keys() == plain.keys()
    for name, weight in merged.items():
        if change := parts.get(name.removesuffix(".weight")):
            wanted = plain[name] + SCALE * change["B"] @ change["A"]
            torch.testing.assert_close(weight, wanted)
        else:
            assert torch.equal(weight, plain[name])


@needs_peft
def test_the_base_is_frozen_and_tells_of_its_adapter(adapter: Path, base_folder: Path) -> None:
    base, plain = (load_base(str(path), device="cpu") for path in (adapter, base_folder))
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.adapter
    assert not plain.adapter


@needs_peft
def test_another_adapter_is_another_base(adapter: Path, base_folder: Path, tmp_path: Path) -> None:
    others = [
        save_adapter(tmp_path / "seed", base_folder, seed=1),
        save_adapter(tmp_path / "scale", base_folder, lora_alpha=7),
        # One that leaves the edited projection as it is.
        save_adapter(tmp_path / "q", base_folder, target_modules=["q_proj"]),
        save_adapter(tmp_path / "v", base_folder, target_modules=["v_proj"]),
        base_folder,
    ]
    found = [fingerprint(folder) for folder in (adapter, *others)]
    assert len(set(found)) == len(found)


@needs_peft
def test_where_adapter_and_base_lie_does_not_matter(
    adapter: Path, base_folder: Path, tmp_path: Path
) -> None:
    before = fingerprint(adapter)
    moved = Path(shutil.move(adapter, tmp_path / "moved"))
    base_folder.rename(moved / "below")
    rewrite(moved, base_model_name_or_path="below", inference_mode=False)
    assert fingerprint(moved) == before


@needs_peft
def test_another_base_below_the_adapter_is_another_base(
    adapter: Path, base_folder: Path, tmp_path: Path
) -> None:
    before = fingerprint(adapter)
    from safetensors.torch import load_file, save_file

    tensors = load_file(base_folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] += 1
    save_file(tensors, base_folder / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(adapter) != before


@needs_peft
def test_a_tokenizer_beside_the_adapter_is_its_own(adapter: Path) -> None:
    assert load_base(str(adapter), device="cpu").tokenizer.chat_template is None
    build_tokenizer(chat_template=CHAT).save_pretrained(adapter)
    assert load_base(str(adapter), device="cpu", chats=True).tokenizer.chat_template == CHAT


# --- weights and an adapter beside them -----------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_beside_weights_an_adapter_is_a_question(
    both: Path, importable: Callable[[bool], None], there: bool
) -> None:
    importable(there)
    error = refusal(both)
    assert error.message.endswith("is it part of the base?")
    assert "`editcli init MODEL --adapter use`" in error.hint
    assert "`--adapter ignore`" in error.hint


@pytest.mark.parametrize("there", [True, False])
def test_an_ignored_adapter_is_ignored_whatever_can_be_imported(
    both: Path, model_folder: Path, importable: Callable[[bool], None], there: bool
) -> None:
    plain = load_base(str(model_folder), device="cpu")
    importable(there)
    base = load_base(str(both), device="cpu", adapter="ignore")
    assert base.fingerprint() == plain.fingerprint()
    with torch.no_grad():
        assert torch.equal(base.model(IDS).logits, plain.model(IDS).logits)


@needs_peft
def test_a_used_adapter_is_merged_into_the_weights_beside_it(
    both: Path, tmp_path: Path, model_folder: Path
) -> None:
    rewrite(both, base_model_name_or_path="/no/such/folder")
    apart = save_adapter(tmp_path / "apart", model_folder)
    assert fingerprint(both, adapter="use") == fingerprint(apart)


def test_without_the_package_merging_names_it_before_weights_are_read(
    base_folder: Path,
    adapter: Path,
    importable: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    importable(False)
    monkeypatch.setattr("editcli.models.loading.load_weights", None)
    errors = [refusal(adapter)]
    errors.append(refusal(save_adapter(base_folder, base_folder), adapter="use"))
    for error in errors:
        assert "needs the package peft" in error.message
        assert error.hint == "`pip install 'editcli[peft]'`"


def test_a_choice_about_an_adapter_that_is_not_there(model_folder: Path, adapter: Path) -> None:
    assert "no adapter_config.json" in refusal(model_folder, adapter="use").message
    assert load_base(str(model_folder), device="cpu", adapter="ignore").layer == 1
    assert "no weights" in refusal(adapter, adapter="ignore").message


# --- what cannot be merged ------------------------------------------------------------------


def test_an_adapter_whose_base_is_not_there(
    adapter: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {
        "": "names no base",
        "./gone": "cannot be found: no such folder",
        "base": "by a path from the current folder",
    }
    monkeypatch.chdir(base_folder.parent)
    for name, why in names.items():
        rewrite(adapter, base_model_name_or_path=name)
        error = refusal(adapter)
        assert why in error.message
        assert str(adapter / "adapter_config.json") in error.hint
    rewrite(adapter, base_model_name_or_path=str(both := save_adapter(base_folder, base_folder)))
    assert str(both) in refusal(adapter).message


@pytest.mark.parametrize(
    ("name", "why"), [("adapter_model.bin", "pickled"), ("other", "no adapter_model.safetensors")]
)
def test_an_adapter_without_safetensors(adapter: Path, name: str, why: str) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / name)
    assert why in refusal(adapter).message


@needs_peft
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"target_modules": ["no_such_module"]}, "no_such_module"),
        ({"target_modules": ["q_proj"]}, "6 of its tensors do not fit"),  # left over
        ({"target_modules": [*TARGETS, "v_proj"]}, "6 of its tensors do not fit"),  # missing
        ({"r": 5}, "size mismatch"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2}, "PROMPT_TUNING changes no"),
        ({"peft_type": "UNHEARD"}, "UNHEARD"),
    ],
)
def test_an_adapter_that_does_not_fit(adapter: Path, changes: dict[str, Any], why: str) -> None:
    rewrite(adapter, **changes)
    message = refusal(adapter).message
    assert "cannot be merged into" in message
    assert why in message


@needs_peft
def test_tied_embeddings_are_not_merged_into(tmp_path: Path) -> None:
    tied = save_model(tmp_path / "tied", "gemma2")
    adapter = save_adapter(tmp_path / "adapter", tied, target_modules=["embed_tokens"])
    assert "token embeddings" in refusal(adapter).message


@needs_peft
def test_packed_weights_take_no_adapter(adapter: Path) -> None:
    assert refusal(adapter, dtype="4bit").exit_code == 2


# --- stores ---------------------------------------------------------------------------------


def made(folder: Path, calibration: Path, *options: str) -> Store:
    settings = [f"--set={key}={value}" for key, value in FAST.items()]
    result = run("init", str(folder), "--calibration", str(calibration), *settings, *options)
    assert result.exit_code == 0, result.stderr
    edited = run("edit", FRANCE.prompt, FRANCE.target, "--subject", "France")
    assert edited.exit_code == 0, edited.stderr
    return Store.open(Path(".editcli").absolute())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@needs_peft
def test_a_store_is_bound_to_its_adapter(
    adapter: Path, base_folder: Path, calibration: Path, here: Path
) -> None:
    store = made(adapter, calibration)
    assert store.config.base == str(adapter)
    assert run("ask", FRANCE.prompt).stdout == f"{FRANCE.target}\n"
    assert run("verify").exit_code == 0
    save_adapter(adapter, base_folder, seed=1)
    asked = run("ask", FRANCE.prompt)
    assert asked.exit_code == StateMismatch.exit_code
    assert "fingerprint" in asked.stderr
    assert run("verify").exit_code == 1


@needs_peft
@pytest.mark.parametrize("choice", ["use", "ignore"])
def test_the_choice_is_recorded_and_holds_for_every_command(
    both: Path, calibration: Path, here: Path, choice: str
) -> None:
    asked = run("init", str(both))
    assert asked.exit_code == 1
    assert "is it part of the base?" in asked.stderr
    store = made(both, calibration, "--adapter", choice)
    assert store.config.adapter == choice
    assert run("ask", FRANCE.prompt).stdout == f"{FRANCE.target}\n"
    assert run("verify").exit_code == 0
    save_adapter(both, both, seed=1)
    assert run("verify").exit_code == (choice == "use")


@needs_peft
def test_what_is_exported_answers_as_the_version_does(
    adapter: Path,
    base_folder: Path,
    calibration: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(here / "modules"))
    made(adapter, calibration)
    base = load_base(str(adapter), device="cpu")
    with editcli.load(here) as loaded, torch.no_grad():
        wanted = answers(loaded.model, loaded.tokenizer)
    for kind in ("adapter", "remote-code", "merged"):
        result = run("export", "HEAD", f"as-{kind}", "--as", kind)
        assert result.exit_code == 0, result.stderr
    with editcli.load("as-adapter") as loaded:
        assert answers(loaded.model, loaded.tokenizer) == wanted
    with pytest.raises(EditorError, match="adapter of PEFT"):
        editors.load("as-adapter")
    model = AutoModelForCausalLM.from_pretrained("as-remote-code", trust_remote_code=True)
    assert answers(model, base.tokenizer) == wanted
    plain = AutoModelForCausalLM.from_pretrained("as-merged")
    assert answers(plain, base.tokenizer)[0] == wanted[0]
    save_adapter(adapter, base_folder, seed=1)
    with pytest.raises(StateMismatch):
        editcli.load("as-adapter")


def answers(model: Any, tokenizer: Any) -> list[str]:
    found = []
    for prompt in PROMPTS:
        row = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**row, max_new_tokens=3, do_sample=False, pad_token_id=0)
        found.append(tokenizer.decode(out[0, row.input_ids.shape[1] :]))
    return found


@needs_peft
def test_init_tells_the_choice_in_json(both: Path, calibration: Path, here: Path) -> None:
    options = ["--calibration", str(calibration), "--adapter", "ignore", "--json"]
    assert json_of(run("init", str(both), *options))["adapter"] == "ignore"
