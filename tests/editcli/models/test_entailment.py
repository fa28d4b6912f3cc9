"""Classifiers of entailment: what loads, what is read off them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_configs import CONFIGS
from tiny_models import WORDS, build_tokenizer
from tiny_stores import save_model

from editcli.models.entailment import entails_by
from editors import EditorError

INFERENCE = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
SIZES = CONFIGS["qwen2"]  # as both families below call them


def save_classifier(
    folder: Path, family: str = "bert", labels: tuple[str, ...] = INFERENCE, **changes: Any
) -> Path:
    """`folder`, with a tiny random classifier saved in it and the word tokenizer beside it."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        family,
        **{**SIZES, **changes},
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():  # as initialised, all texts would be much the same
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def refusal(name: object, device: str = "cpu") -> EditorError:
    with pytest.raises(EditorError) as caught:
        entails_by(str(name), device=device, verbose=0)
    error = caught.value
    assert error.hint
    assert "init atlas" not in error.hint, "the embedded model is no classifier"
    assert "\n" not in error.message
    return error


PAIRS = [
    (first, second)
    for first in WORDS[::7]
    for second in (*WORDS[::9], "the capital of France is Paris", "Ann wrote a")
]


def by_hand(folder: Path, pairs: list[tuple[str, str]]) -> list[bool]:
    """One pair at a time, without padding."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = [model(**tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs]
    return [model.config.id2label[int(one.argmax())].lower() == "entailment" for one in logits]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_entailment_is_the_likeliest_label(tmp_path: Path, family: str) -> None:
    folder = save_classifier(tmp_path / family, family)
    entailed = entails_by(str(folder), device="cpu", verbose=0)(PAIRS)
    assert entailed == by_hand(folder, PAIRS)
    assert {type(one) for one in entailed} == {bool}
    assert set(entailed) == {True, False}


def test_the_label_is_found_wherever_it_stands(tmp_path: Path) -> None:
    first = save_classifier(tmp_path / "first", labels=("entailment", "neutral", "contradiction"))
    last = save_classifier(tmp_path / "last", labels=("not_entailment", "other", "Entailment"))
    entailed = [entails_by(str(folder), device="cpu", verbose=0)(PAIRS) for folder in (first, last)]
    assert entailed == [by_hand(first, PAIRS), by_hand(last, PAIRS)]
    assert entailed[0] != entailed[1]


def test_no_pairs_have_no_answers(tmp_path: Path) -> None:
    assert entails_by(str(save_classifier(tmp_path / "m")), device="cpu", verbose=0)([]) == []


def test_a_model_without_padding_takes_pairs_one_by_one(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "llama", "llama", pad_token_id=None)
    assert entails_by(str(folder), device="cpu", verbose=0)(PAIRS) == by_hand(folder, PAIRS)


def test_a_pair_that_is_too_long_is_cut(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "m")
    entails = entails_by(str(folder), device="cpu", verbose=0)
    assert len(entails([("the city " * 200, "the sea"), ("a", "b")])) == 2


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = save_classifier(tmp_path / "m")
    capfd.readouterr()
    entails_by(str(folder), device="cpu", verbose=0)([("the city " * 200, "the sea")])
    assert capfd.readouterr() == ("", "")


def test_labels_without_entailment_are_named(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "m", labels=("positive", "not_entailment"))
    assert refusal(folder).message == (
        f"{folder} has no label 'entailment': its labels are positive, not_entailment"
    )


def test_a_language_model_is_no_classifier_of_entailment(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "tiny")
    assert "its labels are LABEL_0, LABEL_1" in refusal(folder).message


def test_a_type_that_classifies_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert refusal(tmp_path).message.endswith("is not a classifier of text: its type is 'clip'")


def test_a_folder_that_is_not_there_or_empty(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert refusal(absent).message == f"no such folder: {str(absent)!r}"
    assert refusal(tmp_path).message == f"{tmp_path} holds no config.json"


def test_a_hub_id_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "the Hub cannot be reached" in refusal("someone/some-classifier").message


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "c.C"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "c.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "needs code of its own" in refusal(tmp_path).message
    assert not (tmp_path / "ran").exists()


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert f"the configuration of {tmp_path} cannot be used" in refusal(tmp_path).message


def test_weights_that_are_pickled_or_incomplete(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_classifier(tmp_path / "m")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["classifier.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "lacks 1 of the weights, such as classifier.weight" in refusal(folder).message
    weights.rename(folder / "pytorch_model.bin")
    assert ".safetensors" in refusal(folder).hint


def test_a_classifier_without_a_tokenizer(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "m")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in refusal(folder).message


def test_an_unknown_device_is_a_usage_error(tmp_path: Path) -> None:
    assert refusal(save_classifier(tmp_path / "m"), device="gpu").exit_code == 2
