"""Bases in 8 or 4 bits, and spread over devices: edited, asked and held to what they are."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from tiny_configs import BOS, EOS, PAD, VOCABULARY
from tiny_edits import FACTS, FAST, FRANCE, edit, reopened
from tiny_models import build_tokenizer
from tiny_stores import json_of, run
from transformers import LlamaConfig, LlamaForCausalLM

from editcli.models.loading import dtype_name, load_base
from editors import METHODS, EditorError, StateMismatch
from editors.inference.generation import answers

WISE = METHODS.load("wise")
BITS = ["8bit", "4bit"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose matrices are wide enough for a block of packed values."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def kinds(base: Any) -> dict[str, str]:
    """The kind of each linear module, by its path."""
    return {
        name: type(module).__name__
        for name, module in base.model.named_modules()
        if "Linear" in type(module).__name__
    }


@pytest.mark.parametrize("bits", BITS)
def test_all_is_packed_but_what_edits_go_into_and_the_vocabulary_projection(
    model_folder: Path, bits: str
) -> None:
    packed, plain = (
        load_base(str(model_folder), device="cpu", dtype=dtype, edits=WISE.edits)
        for dtype in (bits, "auto")
    )
    assert dtype_name(packed) == bits
    whole = {name for name, kind in kinds(packed).items() if kind == "Linear"}
    assert whole == {plain.projection.path, "lm_head"}
    assert set(kinds(packed)) == set(kinds(plain))
    weight = packed.projection.weight(packed.model)
    assert torch.equal(weight, plain.projection.weight(plain.model))
    assert packed.fingerprint() != plain.fingerprint()


@pytest.mark.parametrize("bits", BITS)
def test_a_method_that_edits_no_projection_has_all_of_them_packed(
    model_folder: Path, bits: str
) -> None:
    edits = METHODS.load("in-context").edits
    packed = load_base(str(model_folder), device="cpu", dtype=bits, edits=edits)
    assert {name for name, kind in kinds(packed).items() if kind == "Linear"} == {"lm_head"}


@pytest.mark.parametrize("bits", BITS)
def test_gradients_flow_through_packed_weights(model_folder: Path, bits: str) -> None:
    base = load_base(str(model_folder), device="cpu", dtype=bits, edits=WISE.edits)
    path = next(path for path, kind in kinds(base).items() if kind != "Linear")
    module = base.model.get_submodule(path)
    with torch.no_grad():  # their first use decides how they are laid out
        base.model(input_ids=torch.tensor([[1, 5, 9]]))
        weight = module(torch.eye(module.in_features)).T  # [out, in], whatever the packing
    read = torch.randn(2, 3, module.in_features, requires_grad=True)
    gradient = torch.randn(2, 3, module.out_features)
    module(read).backward(gradient)
    wanted = gradient @ weight
    assert float((read.grad - wanted).norm()) < 0.03 * float(wanted.norm())


@pytest.mark.parametrize("bits", BITS)
def test_a_store_on_a_packed_base_is_edited_and_asked(
    model_folder: Path, calibration: Path, bits: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [f"--set={key}={value}" for key, value in FAST.items()]
    made = run(
        "init", str(model_folder), "--dtype", bits, "--calibration", str(calibration), *settings,
        "--json",
    )  # fmt: skip
    assert json_of(made)["dtype"] == bits
    assert run("edit", FRANCE.prompt, FRANCE.target, "--subject", "France").exit_code == 0
    assert run("ask", FRANCE.prompt).stdout == "Rome\n"  # in the bits that the store was made with
    assert run("verify").exit_code == 0
    refused = run("ask", FRANCE.prompt, "--dtype", "float32")
    assert refused.exit_code == StateMismatch.exit_code
    assert "in float32" in refused.stderr


@pytest.mark.parametrize(
    ("options", "package"),
    [({"dtype": "4bit"}, "bitsandbytes"), ({"device": "spread"}, "accelerate")],
)
def test_a_package_that_is_missing_is_named(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], package: str
) -> None:
    find_spec = util.find_spec
    monkeypatch.setattr(
        "editcli.models.libraries.find_spec",
        lambda name: None if name == package else find_spec(name),
    )
    with pytest.raises(EditorError, match=package) as caught:
        load_base(str(model_folder), **options)  # type: ignore[arg-type]
    assert caught.value.hint == "`pip install 'editcli[large]'`"


def test_a_base_spread_over_devices_takes_the_same_edits(model_folder: Path) -> None:
    """Every block behind the hooks that carry states from one device to the next."""
    whole = load_base(str(model_folder), device="cpu")
    spread = load_base(str(model_folder), device="spread")
    assert spread.fingerprint() == whole.fingerprint()
    blocks = {block.path: "cpu" for block in spread.architecture.blocks}
    others = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    rest = {"model.rotary_emb": "cpu"}
    dispatch_model(spread.model, {**blocks, **others, **rest}, main_device="cpu", force_hooks=True)
    methods = [WISE.build(base, FAST, 0) for base in (whole, spread)]
    states = [edit(method, FACTS).state for method in methods]
    assert methods[0].save(states[0]) == methods[1].save(states[1])
    with methods[1].attach(reopened(methods[1], states[0])) as edited:
        texts = [a.text for a in answers(edited, [fact.prompt for fact in FACTS], 5)]
    assert texts == [fact.target for fact in FACTS]


def test_what_fits_nowhere_is_refused(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    load = AutoModelForCausalLM.from_pretrained

    def short_of_memory(*args: Any, **options: Any) -> Any:
        if options.get("device_map") == "auto":
            options |= {"max_memory": {"cpu": 20_000}, "offload_folder": str(model_folder.parent)}
        return load(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", short_of_memory)
    with pytest.raises(EditorError, match="does not fit into the memory of all devices"):
        load_base(str(model_folder), device="spread")
