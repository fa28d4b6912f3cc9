"""Which weights of a folder are read: a whole file, or shards with their index."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_models import build, build_tokenizer
from tiny_stores import save_model

from editcli.models.loading import load_base
from editors import EditorError

INDEX = "model.safetensors.index.json"


@pytest.fixture
def whole(model_folder: Path, tmp_path: Path) -> Path:
    """A folder with one file of weights, which the test may change."""
    return Path(shutil.copytree(model_folder, tmp_path / "whole"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The same model in several files, which the test may change."""
    folder = tmp_path / "sharded"
    build("llama").save_pretrained(folder, max_shard_size="50KB")
    build_tokenizer().save_pretrained(folder)
    assert len(shards(folder)) > 2
    return folder


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def refusal(folder: Path) -> EditorError:
    with pytest.raises(EditorError) as caught:
        load_base(str(folder), device="cpu")
    assert str(folder) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_shards_with_an_index_are_the_same_base(sharded: Path, whole: Path) -> None:
    bases = [load_base(str(folder), device="cpu") for folder in (sharded, whole)]
    assert bases[0].fingerprint() == bases[1].fingerprint()
    one, other = (base.model.state_dict() for base in bases)
    assert all(tensor.equal(other[name]) for name, tensor in one.items())


def test_a_whole_file_beside_shards_is_refused_with_both_named(sharded: Path, whole: Path) -> None:
    shutil.copy(whole / "model.safetensors", sharded)
    error = refusal(sharded)
    assert "model.safetensors, and" in error.message
    assert INDEX in error.message


def test_an_index_that_names_the_whole_file_is_no_second_model(whole: Path) -> None:
    names = build("llama").state_dict()
    weight_map = dict.fromkeys(names, "model.safetensors")
    (whole / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert load_base(str(whole), device="cpu").layer == 1


def test_missing_shards_are_named(sharded: Path) -> None:
    first, second, *_ = shards(sharded)
    first.unlink()
    assert first.name in refusal(sharded).message
    second.unlink()
    message = refusal(sharded).message
    assert f"{first.name}, {second.name}" in message
    assert "lacks 2 of the" in message


def test_shards_without_their_index_are_named(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    message = refusal(sharded).message
    assert shards(sharded)[0].name in message
    assert INDEX in message


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}'])
def test_an_index_that_cannot_be_read(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    assert INDEX in refusal(sharded).message


def test_pickled_weights_are_refused_and_can_be_converted_as_told(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_model(tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save(build("llama").state_dict(), folder / "pytorch_model.bin")
    error = refusal(folder)
    assert "pytorch_model.bin" in error.message
    assert "save_pretrained(NEW_FOLDER)" in error.hint
    new = tmp_path / "new"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new)
    AutoTokenizer.from_pretrained(folder).save_pretrained(new)
    wanted = load_base(str(save_model(tmp_path / "same")), device="cpu")
    assert load_base(str(new), device="cpu").fingerprint() == wanted.fingerprint()


def test_a_folder_without_weights(whole: Path) -> None:
    (whole / "model.safetensors").unlink()
    assert refusal(whole).message == f"{whole} holds no weights"
