"""A relation encoder that is trained on a small corpus of a tiny base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_edits import RELATIONS, corpus

from editors import EditorError
from editors.errors import StateMismatch
from editors.scope.corpus import Corpus
from editors.scope.relation.asking import MARK
from editors.scope.relation.calibration import MIN_RELATIONS, Calibration
from editors.scope.relation.calibration import calibrate as calibrate_encoder
from editors.scope.relation.encoders.states import TOKENS, StatesEncoder, layers_read


@pytest.fixture(scope="module")
def base(tiny_wise: Callable[[str], Any]) -> Any:
    return tiny_wise("llama").base


def calibrate(base: Any, learnt_from: Corpus) -> dict[str, torch.Tensor]:
    return calibrate_encoder(StatesEncoder, base, learnt_from, {})


def calibration_of(base: Any, tensors: dict[str, torch.Tensor]) -> Calibration:
    return Calibration(StatesEncoder.from_tensors(base, tensors), tensors)


@pytest.fixture(scope="module")
def tensors(base: Any) -> dict[str, torch.Tensor]:
    return calibrate(base, corpus())


def test_a_calibration_is_the_same_again(base: Any, tensors: dict[str, torch.Tensor]) -> None:
    again = calibrate(base, corpus())
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_phrasings_of_a_relation_are_nearer_than_those_of_others(
    base: Any, tensors: dict[str, torch.Tensor]
) -> None:
    calibration = calibration_of(base, tensors)
    asked = [f"the {relation} of {MARK} is" for relation in RELATIONS]
    also = [f"what is the {relation} of {MARK} ?" for relation in RELATIONS]
    cosines = calibration.directions_of(asked) @ calibration.directions_of(also).T
    nearest = cosines.argmax(1)
    # One in twenty by chance; the base is random.
    assert (nearest == torch.arange(len(RELATIONS))).float().mean() >= 0.4
    means = calibration.means
    recognised = [calibration.recognised(mean) for mean in means]
    assert recognised == [*range(len(RELATIONS))]
    assert calibration.recognised(-means.sum(0) / means.sum(0).norm()) is None


def test_a_text_has_one_direction_in_every_company(
    base: Any, tensors: dict[str, torch.Tensor]
) -> None:
    calibration = calibration_of(base, tensors)
    texts = [f"the capital of {MARK} is", "who lives in Rome ?", f"{MARK} river"]
    together = calibration.directions_of([*texts, texts[0]])
    alone = torch.cat([calibration.directions_of([text]) for text in texts])
    torch.testing.assert_close(together[:3], alone)
    assert torch.equal(together[0], together[3])
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(4))


def test_the_last_tokens_of_a_long_text_are_read(base: Any) -> None:
    long = "red " * 70 + "the capital of France is"
    [states] = StatesEncoder.untrained(base, {}).read([long])
    assert states.shape == (TOKENS, len(layers_read(base)) * base.model.config.hidden_size)


def test_too_few_relations_are_refused(base: Any) -> None:
    few = corpus().relations[: MIN_RELATIONS - 1]
    with pytest.raises(EditorError, match=f"at least {MIN_RELATIONS} relations, not 19"):
        calibrate(base, Corpus(relations=few))


def test_relations_that_are_held_out_do_not_count(base: Any) -> None:
    some = corpus().relations
    with pytest.raises(EditorError, match="not 19"):
        calibrate(base, Corpus(relations=[replace(some[0], held_out=True), *some[1:]]))


def test_a_missing_part_is_named(base: Any, tensors: dict[str, torch.Tensor]) -> None:
    for name in ("by_form", "encoder.mean", "wordings", "layers"):
        rest = {key: value for key, value in tensors.items() if key != name}
        with pytest.raises(StateMismatch):
            calibration_of(base, rest)
