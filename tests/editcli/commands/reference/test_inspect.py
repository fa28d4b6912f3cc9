"""`editcli inspect`: what a model is and what can be edited, told without reading its weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from tiny_adapters import save_adapter
from tiny_configs import CONFIGS
from tiny_edits import SETTINGS
from tiny_models import CHAT, build_tokenizer
from tiny_stores import json_of, place_of, run, save_model

from editcli.store.store import Store
from editors import METHODS


def inspected(model: Path | str, *options: str) -> dict[str, Any]:
    result = run("inspect", str(model), "--json", *options)
    assert result.exit_code == 0, result.stderr
    return json_of(result)


def lines(model: Path | str, *options: str) -> dict[str, str]:
    """What is told to people, by its name."""
    result = run("inspect", str(model), *options)
    assert result.exit_code == 0, result.stderr
    return dict(line.split("\t", 1) for line in result.stdout.splitlines())


def config_only(folder: Path, family: str, **changes: Any) -> Path:
    """`folder`, with a model's configuration, a tokenizer, and weights that nobody can read."""
    from transformers import AutoConfig

    AutoConfig.for_model(family, **{**CONFIGS[family], **changes}).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"none")
    return folder


@pytest.mark.parametrize("options", [[], ["--layer", "0"], ["--method", "ft-m"]])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_told_is_what_a_store_gets(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calibration: Path,
    tiny_model: Callable[[str], Any],
    family: str,
    options: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_model(tmp_path / "model", family)
    told = inspected(folder, *options)
    made = json_of(run("init", str(folder), f"--calibration={calibration}", "--json", *options))
    for key in ("revision", "method", "dtype", "layer"):
        assert told[key] == made[key]
    assert told["model"] == made["base"]
    assert [*told["projections"]] == made["modules"]
    model = tiny_model(family)
    for path, shape in told["projections"].items():
        assert sorted(shape) == sorted(model.get_submodule(path).weight.shape)
    assert told["parameters"] == model.num_parameters()
    assert told["bytes"] == 4 * told["parameters"]


@pytest.mark.parametrize("method", ["wise", "ft-m", "in-context"])
def test_what_an_edit_keeps_is_what_a_store_keeps(
    edited_by: Callable[[str], Store], method: str
) -> None:
    from safetensors.torch import load

    store = edited_by(method)
    told = inspected(store.config.base, "--method", method)
    spec = METHODS.load(method)
    settings = spec.all_settings(SETTINGS[method])
    expected = spec.kept_entries(settings, [*told["projections"].values()])
    blob = {"wise": "shard-0000.safetensors", "ft-m": "delta.safetensors"}.get(method)
    if blob is None:
        assert expected == told["edit_bytes"] == 0
        return
    tensors = load(place_of(store, blob).read_bytes())
    kept = max(tensor.numel() for tensor in tensors.values())
    assert kept == pytest.approx(expected, rel=0.1)


def test_weights_of_any_size_are_not_read(tmp_path: Path) -> None:
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    sizes |= {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}
    folder = config_only(tmp_path / "large", "llama", **sizes, dtype="bfloat16")
    told = inspected(folder)
    assert told["parameters"] > 68e9
    assert told["bytes"] == 2 * told["parameters"]
    assert (told["blocks"], told["mlp_width"]) == (80, 28672)
    assert told["attention_heads"] == {
        "count": 64,
        "groups": 8,
        "width": 128,
        "prunable": [*range(80)],
    }


def test_people_read_it_line_by_line(model_folder: Path) -> None:
    told = lines(model_folder)
    assert told["heads"] == "4 in a block, in 2 groups, of width 16"
    assert told["can be edited"] == told["heads can be pruned"] == "all blocks"
    assert told["edited projection"] == "model.layers.1.mlp.down_proj, 32 x 48"
    assert told["chat template"] == "no"
    assert run("inspect", str(model_folder), "-q").stdout == f"{model_folder}\n"


@pytest.mark.parametrize(
    ("family", "editable", "prunable", "why"),
    [
        ("mixtral", [], [0, 1, 2], "mixture of experts"),
        ("deepseek_v3", [0, 1, 2], [0, 1, 2], ""),
        ("qwen3_5_text", [0, 1, 2, 3], [3], "it has no attention"),
        ("mamba", [], [], "it has no attention"),
    ],
)
def test_what_cannot_be_edited_is_told_with_the_reason(
    tmp_path: Path, family: str, editable: list[int], prunable: list[int], why: str
) -> None:
    folder = config_only(tmp_path / family, family)
    told = inspected(folder)
    assert told["editable"] == editable
    assert told["attention_heads"]["prunable"] == prunable
    assert why in "; ".join(reason["why"] for reason in told["why_not"])
    assert bool(told["why_not"]) == bool(why)
    if editable:
        assert told["layer"] in editable
    else:
        assert told["layer"] is None
        assert told["edit_bytes"] == 0
    text = run("inspect", str(folder)).stdout
    assert ("`editcli conflict`" in text) == (not editable and bool(prunable))


def test_a_layer_that_is_not_there_is_refused(model_folder: Path) -> None:
    refused = run("inspect", str(model_folder), "--layer", "9")
    assert refused.exit_code == 1
    assert "layer 9 is not one of 0 to 2" in refused.stderr


def test_chat_templates_and_missing_tokenizers_are_told(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", tokenizer=False)
    assert inspected(folder)["chat_template"] is None
    assert lines(folder)["chat template"] == "there is no tokenizer"
    build_tokenizer(chat_template=CHAT).save_pretrained(folder)
    assert inspected(folder)["chat_template"] is True


def test_quantised_weights_are_told(tmp_path: Path) -> None:
    folder = config_only(tmp_path / "packed", "llama")
    assert inspected(folder)["quantised"] == ""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    assert inspected(folder)["quantised"] == "gptq"
    assert "quantised by gptq" in lines(folder)["weights"]


def test_an_adapter_is_told_with_its_base(model_folder: Path, tmp_path: Path) -> None:
    plain = inspected(model_folder)
    adapter = save_adapter(tmp_path / "adapter", model_folder)
    told = inspected(adapter)
    assert told["adapter"] == str(model_folder)
    assert told == {**plain, "model": str(adapter), "adapter": str(model_folder)}
    both = save_adapter(Path(shutil.copytree(model_folder, tmp_path / "both")), model_folder)
    asked = run("inspect", str(both))
    assert asked.exit_code == 1
    assert "is it part of the base?" in asked.stderr
    assert inspected(both, "--adapter", "ignore")["adapter"] is None


def test_code_that_comes_with_a_model_is_run_only_on_demand(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", modules)
    folder = Path(shutil.copytree(model_folder, tmp_path / f"mine_{tmp_path.name}"))
    (folder / "modeling_mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class MineConfig(LlamaConfig):\n    model_type = 'mine'\n"
        "class MineModel(LlamaForCausalLM):\n    config_class = MineConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "MineConfig", "AutoModelForCausalLM": "MineModel"}
    config["auto_map"] = {key: f"modeling_mine.{name}" for key, name in classes.items()}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mine"}))
    refused = run("inspect", str(folder))
    assert refused.exit_code == 1
    assert "--trust-remote-code" in refused.stderr
    assert inspected(folder, "--trust-remote-code")["model_type"] == "mine"


def test_a_model_on_the_hub_is_inspected_without_its_weights(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--org--tiny"
    without = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(model_folder, folder / "snapshots" / commit, ignore=without)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    told = inspected("org/tiny")
    assert (told["model"], told["revision"]) == ("org/tiny", commit)
    assert told == {**inspected(model_folder), "model": "org/tiny", "revision": commit}


@pytest.mark.skipif(util.find_spec("gguf") is None, reason="gguf is not installed")
@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_is_inspected_without_being_dequantised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    from tiny_gguf import build_llama, save_gguf

    from editcli.models.loading import load_base

    monkeypatch.setenv("EDITCLI_CACHE", str(tmp_path / "cache"))
    file = save_gguf(tmp_path / "model.gguf", build_llama(tied=tied), "Q8_0")
    told = inspected(file)
    assert not (tmp_path / "cache").exists()
    base = load_base(str(file), device="cpu")
    assert told["parameters"] == base.model.num_parameters()
    assert told["blocks"] == len(base.architecture.blocks)
    assert told["vocabulary"] == base.vocabulary
    assert told["chat_template"] == (base.tokenizer.chat_template is not None)
    assert told["editable"] == [block.index for block in base.architecture.blocks]
