"""Loading a base: what it is, and the errors where it cannot be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tiny_stores import CONFIG, save_model

from editcli.models.loading import load_base
from editcli.models.recorded.store_base import load_store_base
from editcli.store.records import StoreConfig
from editors import EditorError, StateMismatch, UnsupportedArchitecture

if TYPE_CHECKING:
    from editors.model.base_model import Base


@pytest.fixture
def spoiled(model_folder: Path, tmp_path: Path) -> Callable[[], Path]:
    """A copy of the folder that the test may damage."""
    return lambda: Path(shutil.copytree(model_folder, tmp_path / "copy"))


def config_of(base: Base, folder: Path, **changes: object) -> StoreConfig:
    values: dict[str, Any] = {
        "base": str(folder),
        "fingerprint": base.fingerprint(),
        "layer": base.layer,
    }
    return replace(CONFIG, **{**values, **changes})


def refusal(name: object, **options: object) -> EditorError:
    with pytest.raises(EditorError) as caught:
        load_base(str(name), **options)  # type: ignore[arg-type]
    error = caught.value
    assert error.hint
    assert not error.message.endswith(".")
    assert "\n" not in error.message
    return error


# --- what is loaded -------------------------------------------------------------------------


def test_a_folder_gives_a_frozen_model_in_evaluation_with_its_tokenizer(model_folder: Path) -> None:
    base = load_base(str(model_folder), device="cpu")
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.layer == 1  # 27/32 of three blocks, never the last
    assert base.tokenizer("France").input_ids == [1, base.tokenizer.vocab["France"]]


def test_nothing_is_printed_while_loading(
    model_folder: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    load_base(str(model_folder), device="cpu")
    assert capfd.readouterr() == ("", "")
    assert not list(recwarn)


def test_auto_keeps_the_dtype_of_the_checkpoint(tmp_path: Path) -> None:
    import torch

    half = save_model(tmp_path / "half", dtype=torch.bfloat16)
    assert load_base(str(half), device="cpu").model.dtype is torch.bfloat16
    assert load_base(str(half), device="cpu", dtype="float32").model.dtype is torch.float32


def test_two_loads_have_one_fingerprint_and_layers_have_different_ones(model_folder: Path) -> None:
    first, second = (load_base(str(model_folder), device="cpu") for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    assert load_base(str(model_folder), device="cpu", layer=0).fingerprint() != first.fingerprint()


def test_a_moved_folder_keeps_its_fingerprint(
    model_folder: Path, spoiled: Callable[[], Path]
) -> None:
    base = load_base(str(model_folder), device="cpu")
    again = load_store_base(config_of(base, spoiled()), device="cpu")
    assert again.fingerprint() == base.fingerprint()


def test_a_store_config_brings_its_layer_and_dtype(model_folder: Path) -> None:
    import torch

    base = load_base(str(model_folder), device="cpu", dtype="bfloat16", layer=0)
    loaded = load_store_base(config_of(base, model_folder, dtype="bfloat16"), device="cpu")
    assert (loaded.layer, loaded.model.dtype) == (0, torch.bfloat16)


def test_another_model_than_the_stores_is_refused_with_both_fingerprints(
    model_folder: Path,
) -> None:
    base = load_base(str(model_folder), device="cpu")
    with pytest.raises(StateMismatch) as caught:
        load_store_base(config_of(base, model_folder, fingerprint="f" * 64), device="cpu")
    assert base.fingerprint()[:16] in caught.value.message
    assert "f" * 16 in caught.value.message
    assert "`editcli init" in caught.value.hint


def test_another_dtype_than_the_stores_is_refused(model_folder: Path) -> None:
    config = config_of(load_base(str(model_folder), device="cpu"), model_folder)
    with pytest.raises(StateMismatch, match="in bfloat16") as caught:
        load_store_base(config, device="cpu", dtype="bfloat16")
    assert "`--dtype`" in caught.value.hint


def test_a_base_that_has_moved_is_where_the_environment_says(
    model_folder: Path, spoiled: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(model_folder), device="cpu")
    config = config_of(base, model_folder.parent / "gone", revision="main")
    with pytest.raises(EditorError) as caught:
        load_store_base(replace(config, revision=""), device="cpu")
    assert caught.value.message.startswith("the base of this store cannot be found: no such folder")
    assert "`EDITCLI_MODEL=FOLDER editcli ...`" in caught.value.hint
    monkeypatch.setenv("EDITCLI_MODEL", str(spoiled()))
    assert load_store_base(config, device="cpu").fingerprint() == base.fingerprint()
    monkeypatch.setenv("EDITCLI_MODEL", str(model_folder.parent / "gone"))
    with pytest.raises(EditorError, match="the base of this store cannot be found"):
        load_store_base(config, device="cpu")


# --- what cannot be loaded ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "the configuration of .* cannot be used"),
        ("{}", "the configuration of .* cannot be used"),
        ('{"model_type": "no-such-type"}', "the configuration of .* cannot be used"),
        ('{"model_type": "t5"}', "is not a causal language model: its type is 't5'"),
        (
            '{"model_type": "mine", "auto_map": {"AutoConfig": "c.C", '
            '"AutoModelForCausalLM": "m.M"}}',
            "needs code of its own, which editcli does not run",
        ),
    ],
)
def test_a_config_that_cannot_be_used(
    spoiled: Callable[[], Path], config: str, message: str
) -> None:
    copy = spoiled()
    (copy / "config.json").write_text(config)
    with pytest.raises(EditorError, match=message):
        load_base(str(copy), device="cpu")


def test_code_in_a_checkpoint_is_not_run(spoiled: Callable[[], Path], tmp_path: Path) -> None:
    copy = spoiled()
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "c.C"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "c.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refusal(copy)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_cut_short(spoiled: Callable[[], Path]) -> None:
    copy = spoiled()
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert f"the weights of {copy} cannot be loaded" in refusal(copy).message


def test_weights_that_would_be_drawn_at_random_are_refused(spoiled: Callable[[], Path]) -> None:
    from safetensors.torch import load_file, save_file

    copy = spoiled()
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    message = refusal(copy).message
    assert "lacks 1 of the weights, such as model.layers.1.mlp.down_proj.weight" in message


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gemma2", "opt"])
def test_a_folder_without_a_tokenizer(tmp_path: Path, family: str) -> None:
    bare = save_model(tmp_path / family, family, tokenizer=False)
    error = refusal(bare)
    assert "tokenizer" in error.message
    assert "`tokenizer.save_pretrained(FOLDER)`" in error.hint


def test_a_layer_that_is_not_there(model_folder: Path) -> None:
    error = refusal(model_folder, layer=9)
    assert "layer 9 is not one of 0 to 2" in error.message
    assert "`--layer 1`" in error.hint


def test_a_model_without_a_projection_to_edit(tmp_path: Path) -> None:
    mamba = save_model(tmp_path / "mamba", "mamba")
    with pytest.raises(UnsupportedArchitecture):
        load_base(str(mamba), device="cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cpu:1", ""])
def test_an_unknown_or_absent_device_is_a_usage_error(model_folder: Path, device: str) -> None:
    error = refusal(model_folder, device=device)
    assert repr(device) in error.message
    assert error.exit_code == 2


def test_an_unknown_dtype_is_a_usage_error(model_folder: Path) -> None:
    error = refusal(model_folder, dtype="float8")
    assert "'float8'" in error.message
    assert "bfloat16" in error.hint
    assert error.exit_code == 2
