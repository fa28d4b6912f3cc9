"""The settings of WISE, their ranges, and the two profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches

from editors.errors import EditorError
from editors.methods.edit_state import Scalar


@dataclass(frozen=True, slots=True)
class WiseSettings:
    """The settings of the method; ``--set key=value`` takes these names.

    ``shard_size``: facts that share a shard (0: as many as the projection has room for).
    ``merge_every``: this many shards are merged into one memory (0: none are, every shard is
    retrieved by itself). ``prefixes``: forms of each fact after an unrelated beginning that are
    trained beside the bare prompt. The others are described where they are used.
    """

    profile: str = "robust"
    router: str = "key"
    training: str = "joint"
    shard_size: int = 0
    mask_ratio: float = 0.2
    prefixes: int = 4
    merge: str = "ties"
    merge_every: int = 0
    density: float = 1.0
    max_steps: int = 400
    learning_rate: float = 2.0
    confidence: float = 0.995
    alpha: float = 5.0
    beta: float = 20.0
    gamma: float = 10.0
    act_ratio: float = 1.0
    false_open: float = 0.1
    rank: int = 24

    def __post_init__(self) -> None:
        _one_of("profile", self.profile, tuple(PROFILES))
        _one_of("router", self.router, ("key", "activation"))
        _one_of("training", self.training, ("joint", "ordered"))
        _one_of("merge", self.merge, ("ties", "linear"))
        if self.router == "activation" and self.training == "joint":
            raise EditorError(
                "router=activation needs training=ordered: training=joint measures no thresholds",
                "`--set training=ordered`",
            )
        _within("shard_size", self.shard_size, 0, 100_000)
        _within("mask_ratio", self.mask_ratio, 1e-4, 1)
        _within("prefixes", self.prefixes, 0, 10)
        _within("merge_every", self.merge_every, 0, 10_000)
        _within("density", self.density, 1e-4, 1)
        _within("max_steps", self.max_steps, 1, 100_000)
        _within("learning_rate", self.learning_rate, 1e-8, 1e3)
        _within("confidence", self.confidence, 0, 1)
        _within("act_ratio", self.act_ratio, 0, 10)
        _within("rank", self.rank, 1, 4096)
        _within("false_open", self.false_open, 0, 1)


PROFILES: dict[str, dict[str, Scalar]] = {
    "robust": {},
    "paper": {
        "router": "activation",
        "training": "ordered",
        "shard_size": 500,
        "prefixes": 10,
        "merge_every": 2,
        "max_steps": 70,
        "learning_rate": 1.0,
    },
}


def settings_from(values: Mapping[str, Scalar]) -> WiseSettings:
    """The settings that ``values`` describe, over the defaults of their profile.

    Raises:
        EditorError: an unknown name, or a value of the wrong type or range.
    """
    profile = str(values.get("profile", "robust"))
    _one_of("profile", profile, tuple(PROFILES))
    defaults = {f.name: f.default for f in fields(WiseSettings)}
    merged: dict[str, Scalar] = {}
    for key, value in {**PROFILES[profile], **values}.items():
        if key not in defaults:
            near = get_close_matches(key, defaults, 1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise EditorError(
                f"wise has no setting {key!r}{meant}", f"settings: {', '.join(defaults)}"
            )
        wanted = type(defaults[key])
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted:
            raise EditorError(f"setting {key!r} takes {wanted.__name__}, not {value!r}")
        merged[key] = value
    return WiseSettings(**merged)  # type: ignore[arg-type]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise EditorError(f"setting {name!r} takes {', '.join(allowed)}, not {value!r}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise EditorError(f"setting {name!r} takes a number from {low} to {high}, not {value}")
