"""An editing method on atlas, calibrated on the shipped corpus: what benchmarks of edits
share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from editcli.files.corpus import read_corpus
from editcli.files.packaged import ShippedCalibrations, datasets_dir
from editcli.models.loading import load_base
from editcli.models.locations import ATLAS
from editors import METHODS, Fact
from editors.evaluation.edit_scores import EditScores, score_edits
from editors.methods.applying import NO_CACHE, Applied
from editors.methods.base import Method
from editors.methods.edit_state import EditState, Scalar
from editors.model.base_model import Base
from editors.scope.corpus import Corpus

CALIBRATED_ON = 50  # groups of phrasings, where a model has random weights


def atlas_facts(name: str) -> list[Fact]:
    """The facts of a file of datasets/atlas."""
    with (datasets_dir() / ATLAS / name).open(encoding="utf-8") as lines:
        return [Fact.from_dict(json.loads(line)) for line in lines]


def small_corpus() -> Corpus:
    """Enough to calibrate a model on that has learnt nothing."""
    return Corpus(groups=read_corpus().groups[:CALIBRATED_ON])


@dataclass(frozen=True, slots=True)
class Workbench:
    """A method on a base, and the state without edits."""

    method: Method[Any, Any]
    start: EditState

    @staticmethod
    def of(
        base: Base,
        corpus: Corpus,
        name: str = "wise",
        settings: Mapping[str, Scalar] | None = None,
    ) -> Workbench:
        method = METHODS.load(name).build(base, settings or {}, seed=0)
        return Workbench(method, method.start(corpus, ShippedCalibrations()))

    @staticmethod
    def on_atlas(name: str = "wise", settings: Mapping[str, Scalar] | None = None) -> Workbench:
        return Workbench.of(load_base(ATLAS, device="cpu"), read_corpus(), name, settings)

    def apply(self, facts: Sequence[Fact], state: EditState | None = None) -> Applied:
        """``facts`` applied to ``state``, by default to the one without edits."""
        return self.method.apply(
            self.start if state is None else state,
            facts,
            cache=NO_CACHE,
            on_progress=lambda _: True,
        )

    def scores(self, state: EditState, facts: Sequence[Fact]) -> EditScores:
        """Scores whose answers must be the target and stop: atlas was taught to."""
        attach = partial(self.method.attach, state)
        return score_edits(self.method.base, attach, facts, headline="exact")
