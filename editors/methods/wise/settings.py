"""The settings of WISE, their ranges, and its profiles. Needs no tensor library."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from editors.errors import EditorError
from editors.methods.edit_state import Scalar
from editors.schema import Field, Number, Whole, model_validator, record
from editors.scope.settings import ScopeSettings

Share = Annotated[Number, Field(ge=0, le=1)]


@record(EditorError)
class WiseSettings(ScopeSettings):
    """The settings of the method; ``--set key=value`` takes these names.

    ``scope``: a scope signal, or "activation", the routing of the paper (arXiv 2405.14768).
    ``training``: "joint" trains the facts of a shard together, "sequential" one after the other.
    ``shard_size``: the facts of a shard (0: as many as the projection has room for).
    ``memory``: a shard changes the projection on a random mask ("masked") or by a product of two
    matrices of rank ``memory_rank`` ("low-rank"), which exports as an adapter for other engines.
    ``mask_ratio``: the share of the entries of the projection that a mask has.
    ``prefixes``: the number of prefixed forms of each fact that are trained with the bare prompt.
    ``merge_every``: this many shards are merged into one memory (0: none), by ``merge``, each
    trimmed to ``density``. ``learning_rate``: of joint training, in units of the projection's root
    mean square weight; of sequential training, that of plain SGD. ``confidence``: the probability
    that each target token must reach in joint training. ``max_steps``: for the facts of a group
    (joint) or for each edit (sequential). ``alpha``, ``beta``, ``gamma``: the margins of Eq. 5;
    ``act_ratio``: the factor on the thresholds of Eq. 6.

    The profile "separate" gives each fact a memory of its own, so that a claimed prompt is never
    answered with another fact. "paper" is the method of the paper.
    """

    PROFILES: ClassVar[dict[str, dict[str, Scalar]]] = {
        "robust": {},
        "separate": {
            "scope": "sentence",
            "shard_size": 1,
            "mask_ratio": 0.05,
            "prefixes": 0,
            "confidence": 0.99,
        },
        "paper": {
            "scope": "activation",
            "training": "sequential",
            "shard_size": 500,
            "prefixes": 10,
            "merge_every": 2,
            "max_steps": 70,
            "learning_rate": 1.0,
        },
    }

    profile: Literal["robust", "separate", "paper"] = "robust"
    training: Literal["joint", "sequential"] = "joint"
    shard_size: Annotated[Whole, Field(ge=0, le=100_000)] = 0
    memory: Literal["masked", "low-rank"] = "masked"
    memory_rank: Annotated[Whole, Field(ge=1, le=1024)] = 16
    mask_ratio: Annotated[Number, Field(ge=1e-4, le=1)] = 0.2
    prefixes: Annotated[Whole, Field(ge=0, le=10)] = 4
    merge: Literal["ties", "linear"] = "ties"
    merge_every: Annotated[Whole, Field(ge=0, le=10_000)] = 0
    density: Annotated[Number, Field(ge=1e-4, le=1)] = 1.0
    max_steps: Annotated[Whole, Field(ge=1, le=100_000)] = 400
    learning_rate: Annotated[Number, Field(ge=1e-8, le=1e3)] = 2.0
    confidence: Share = 0.995
    alpha: Number = 5.0
    beta: Number = 20.0
    gamma: Number = 10.0
    act_ratio: Annotated[Number, Field(ge=0, le=10)] = 1.0

    @model_validator(mode="after")
    def _measures_thresholds(self) -> WiseSettings:
        if self.scope == "activation" and self.training == "joint":
            raise ValueError(
                "scope=activation needs training=sequential: joint training measures no thresholds"
            )
        if self.memory == "low-rank" and self.training != "joint":
            raise ValueError("memory=low-rank needs training=joint")
        return self
