"""`editcli export --as gguf`: what was written is read again, by editcli and by transformers."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import SPECIALS, TEMPLATE, build_llama, save_gguf
from tiny_stores import json_of, run

from editcli.models.loading import load_base
from editcli.store.store import Store

pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
pytest.importorskip("accelerate", reason="the extra `gguf` is not installed")

READS_BEGINNINGS = tuple(map(int, metadata.version("transformers").split(".")[:2])) >= (5, 23)
needs_beginnings = pytest.mark.skipif(
    not READS_BEGINNINGS, reason="this transformers reads no token that begins a text"
)
HAMLET = ("Who wrote Hamlet?", "Jane Austen")
TEXTS = ["Who wrote Hamlet?", " It's 1601, naïve Москва\n\n東京 ", "The capital of Italy is"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITCLI_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store on atlas, with an edit by ft-m, which plain weights hold exactly."""
    folder = tmp_path_factory.mktemp("gguf")
    place = ["--store", str(folder / ".editcli")]
    assert run("init", "atlas", "--method", "ft-m", *place).exit_code == 0
    assert run("edit", *HAMLET, "-s", "Hamlet", *place).exit_code == 0
    return folder / ".editcli"


@pytest.fixture
def on_atlas(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / ".editcli")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exported(kind: str, *options: str) -> Path:
    result = run("export", "HEAD", f"out-{kind}", "--as", kind, *options)
    assert result.exit_code == 0, result.stderr
    return Path(f"out-{kind}")


def opened(folder: Path, **options: Any) -> tuple[Any, Any]:
    """The model in ``folder``, as transformers opens it, and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model, AutoTokenizer.from_pretrained(folder, **options)


def logits(model: Any, tokenizer: Any) -> list[Any]:
    import torch

    with torch.no_grad():
        rows = [tokenizer(text, return_tensors="pt").input_ids for text in TEXTS]
        return [model(ids).logits.float() for ids in rows]


@needs_beginnings
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_a_file_computes_what_the_merged_export_computes(on_atlas: Path, kind: str) -> None:
    import torch

    model, tokenizer = opened(exported("merged"))
    [file] = exported("gguf", "--gguf-dtype", kind).glob("*.gguf")
    for parameter in model.parameters():  # what the file rounds
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(getattr(torch, kind)).float()
    expected = logits(model, tokenizer)
    base = load_base(str(file), device="cpu")
    as_file = opened(file.parent, gguf_file=file.name)
    for read in ((base.model, base.tokenizer), as_file):
        for found, wanted in zip(logits(*read), expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@needs_beginnings
def test_a_store_is_made_on_a_file_and_knows_the_edit(on_atlas: Path) -> None:
    [file] = exported("gguf").glob("*.gguf")
    options = ["--method", "in-context", "--scope", "key", "--store", "again"]
    assert run("init", str(file), *options).exit_code == 0
    answers = [
        json_of(run("ask", HAMLET[0], "--json", *place))["answer"]
        for place in ([], ["--store", "again"])
    ]
    assert answers == [HAMLET[1]] * 2


@needs_beginnings
def test_the_tokenizer_is_whole(on_atlas: Path) -> None:
    expected = load_base("atlas", device="cpu").tokenizer
    [file] = exported("gguf").glob("*.gguf")
    _, tokenizer = opened(file.parent, gguf_file=file.name)
    for text in (*TEXTS, "<|bos|>a<|eos|>b<|pad|>"):
        assert tokenizer(text)["input_ids"] == expected(text)["input_ids"]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(tokenizer, name) == getattr(expected, name)


def test_a_chat_template_and_special_tokens_go_the_way_there_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    native = build_llama(tied=False)
    source = save_gguf(tmp_path / "source.gguf", native)
    assert run("init", str(source), "--method", "ft-m").exit_code == 0
    [file] = exported("gguf").glob("*.gguf")
    base = load_base(str(file), device="cpu")
    for name, tensor in native.state_dict().items():
        assert torch.equal(base.model.state_dict()[name], tensor), name
    assert base.tokenizer.chat_template == TEMPLATE
    assert base.tokenizer.convert_ids_to_tokens([0, 1, 2]) == list(SPECIALS)


@needs_beginnings
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", {"head_dim": 24, "tie_word_embeddings": False}),
        ("mistral", {"head_dim": 24, "sliding_window": None}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 128}),
    ],
)
def test_the_families_that_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, more: dict[str, Any]
) -> None:
    """What is written is read back and compared before the folder appears."""
    monkeypatch.chdir(tmp_path)
    init(byte_level(tmp_path / "model", family, **more))
    exported("gguf")
    assert "gguf_file='out-gguf.gguf'" in Path("out-gguf/README.md").read_text()


def init(model: Path) -> None:
    result = run("init", str(model), "--method", "ft-m")
    assert result.exit_code == 0, result.stderr


def byte_level(folder: Path, family: str, **more: Any) -> Path:
    """`folder`, with a random model of `family` and the tokenizer of atlas."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = load_base("atlas", device="cpu").tokenizer
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer) + 8, max_position_embeddings=64, **sizes, **heads, **more
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- what is refused ------------------------------------------------------------------------------


def refused(*options: str) -> tuple[str, str]:
    """The message and the hint; nothing is left behind."""
    before = sorted(Path().iterdir())
    result = run("export", "HEAD", "out", "--as", *options)
    assert result.exit_code in (1, 2)
    assert sorted(Path().iterdir()) == before
    message, _, hint = result.stderr.rstrip("\n").split("\n")
    return message.removeprefix("error: "), hint.removeprefix("hint: ")


@pytest.mark.parametrize(
    ("family", "more", "reason"),
    [
        ("olmo2", {}, "a 'olmo2' is not written as a GGUF file; written are llama, mistral"),
        ("mistral", {"sliding_window": 8}, "its attention has a sliding window"),
        ("llama", {"hidden_act": "gelu"}, "its activation is gelu"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "its rotary positions are of the type 'linear'",
        ),
        pytest.param("llama", {"attention_bias": True}, "bias", marks=needs_beginnings),
        pytest.param("qwen3", {"head_dim": 24}, "reads back as another", marks=needs_beginnings),
    ],
)
def test_a_model_that_the_file_cannot_hold_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, more: dict[str, Any], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    init(byte_level(tmp_path / "model", family, **more))
    message, hint = refused("gguf")
    assert reason in message
    assert "`--as merged`" in hint


@pytest.mark.skipif(READS_BEGINNINGS, reason="this transformers reads them")
def test_a_release_that_reads_no_beginnings_is_named(on_atlas: Path) -> None:
    message, hint = refused("gguf")
    assert message.startswith(f"transformers {metadata.version('transformers')} does not read")
    assert "5.23" in hint


def test_a_tokenizer_that_the_file_cannot_hold_is_refused(edited: Store) -> None:
    message, hint = refused("gguf")
    assert message.startswith("the tokenizer is not byte-level byte-pair encoding")
    assert "`--as merged`" in hint


def test_a_dtype_of_a_file_needs_a_file(edited: Store) -> None:
    assert refused("merged", "--gguf-dtype", "float16") == (
        "an export as merged has no GGUF file",
        "`--as gguf`",
    )


def test_the_extra_is_named_where_it_is_missing(
    edited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editcli.models.libraries.find_spec", lambda _: None)
    assert refused("gguf") == (
        "writing a GGUF file needs the package gguf, which is not installed",
        "`pip install 'editcli[gguf]'`",
    )
