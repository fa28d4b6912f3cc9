"""WISE: lifelong edits in a side memory of one projection, sharded and routed.

Wang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language
Models", NeurIPS 2024 (arXiv 2405.14768). The main memory stays frozen; a shard holds at most
``shard_size`` facts on a random mask of its own; a router decides which memory answers.

``profile=paper`` takes the paper's choices: edits trained one after the other with the margins of
Eq. 5, the activation router, and shards merged by TIES. ``profile=robust``, the default, trains the
facts of a shard together on their targets and routes by keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import cached_property
from typing import ClassVar

import torch
from safetensors.torch import load as load_tensors

from editors.attach import Attached, attached
from editors.base import Base
from editors.calibration import Calibration, CalibrationSettings, Phrasings, calibrate
from editors.editor import Applied, Memo, Progress
from editors.errors import EditorError, PromptTooLong, StateMismatch
from editors.facts import Fact
from editors.generation import answers
from editors.key_router import KeyRouter, KeySettings
from editors.merging import merge
from editors.routing import ActivationRouter, MainRouter, Router
from editors.side_memory import Shard, random_mask
from editors.state import Closed, EditState, Scalar, ShardRecord, to_bytes
from editors.texts import PREFIX_SEEDS, UNRELATED, prefixed
from editors.tokens import Row, encode_pair, encode_prompt
from editors.training import JointSettings, OrderedSettings, Outcome, in_order, jointly


@dataclass(frozen=True, slots=True)
class WiseSettings:
    """The settings of the method; ``--set key=value`` takes these names.

    ``merge_every``: this many shards are merged into one memory (0: none are, every shard is
    retrieved by itself). ``prefixes``: forms of each fact after an unrelated beginning that are
    trained beside the bare prompt. The others are described where they are used.
    """

    profile: str = "robust"
    router: str = "key"
    training: str = "joint"
    shard_size: int = 50
    mask_ratio: float = 0.2
    prefixes: int = 2
    merge: str = "ties"
    merge_every: int = 0
    density: float = 1.0
    max_steps: int = 400
    learning_rate: float = 1.0
    confidence: float = 0.995
    alpha: float = 5.0
    beta: float = 20.0
    gamma: float = 10.0
    act_ratio: float = 1.0
    false_open: float = 0.05
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
        _within("shard_size", self.shard_size, 1, 100_000)
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


class Wise:
    """WISE on one base."""

    name: ClassVar[str] = "wise"
    title: ClassVar[str] = "WISE: sharded side memory with a router"
    reference: ClassVar[str] = "arXiv 2405.14768, NeurIPS 2024"

    def __init__(self, base: Base, settings: Mapping[str, Scalar], seed: int) -> None:
        self.base, self.seed = base, seed
        self.settings = settings_from(settings)
        self._told = dict(settings)

    def empty(self, phrasings: Sequence[Phrasings]) -> EditState:
        """The state of a base without edits; the key router is calibrated on ``phrasings``."""
        router: dict[str, torch.Tensor] = {}
        if self.settings.router == "key":
            s = self.settings
            told = CalibrationSettings(rank=s.rank, false_open=s.false_open)
            prefixes = self._calm_prefixes
            router = calibrate(self.base, phrasings, prefixes, told).tensors()
        return EditState(
            self.name,
            self._told,
            self.base.layer,
            self.base.projection.path,
            self._fingerprint,
            router=router,
        )

    # --- editing --------------------------------------------------------------------------------

    def apply(
        self,
        state: EditState,
        facts: Sequence[Fact],
        *,
        memo: Memo,
        on_progress: Callable[[Progress], bool],
    ) -> Applied:
        """``state`` with ``facts`` applied in order.

        A fact in force already is left alone; one whose prompt is already edited supersedes the
        older one. Finished shards are kept in ``memo``, so that a killed run goes on where it was.

        Raises:
            StateMismatch: ``state`` belongs to another base.
            EditorError: a fact cannot be encoded; nothing is then applied.
        """
        self._require(state)
        fresh, unchanged = self._fresh(state, facts)
        for fact in fresh:  # all that could be refused is refused before anything is trained
            self._rows(fact)
        applied: list[str] = []
        superseded: dict[str, str] = {}
        failed: list[str] = []
        iterations, reached = 0, 0
        while reached < len(fresh):
            number, room = self._open_shard(state)
            group = fresh[reached : reached + room]
            state, replaced = _entered(state, group)
            standing = [fact for fact in group if fact.id not in state.closed]
            state, outcome = self._train(state, number, standing, memo)
            reached += len(group)
            iterations += outcome.iterations
            applied += [fact.id for fact in group]
            superseded |= replaced
            ids = state.shards[number].groups[-1]
            failed += [ids[i] for i in outcome.failed]
            if not on_progress(Progress(reached, len(fresh), iterations)):
                break
        state = replace(state, router=self._fitted(state)) if applied else state
        gone = {old for old in superseded if old in applied and old in state.closed}
        return Applied(
            state,
            tuple(fact for fact in applied if fact not in gone),
            tuple(unchanged),
            superseded,
            tuple(dict.fromkeys(failed)),
            tuple(fact.id for fact in fresh[reached:]),
            iterations,
        )

    def _fresh(self, state: EditState, facts: Sequence[Fact]) -> tuple[list[Fact], list[str]]:
        """The facts that change something, in order, and the ids of those that do not."""
        answering = {fact.prompt: fact for fact in state.in_force()}
        fresh, unchanged = [], []
        for fact in facts:
            current = answering.get(fact.prompt)
            if current is not None and current.target == fact.target:
                unchanged.append(current.id)
                continue
            answering[fact.prompt] = fact
            fresh.append(fact)
        return fresh, unchanged

    def _open_shard(self, state: EditState) -> tuple[int, int]:
        """The number of the shard that takes the next fact, and how many it has room for."""
        size = self.settings.shard_size
        if state.shards and len(state.shards[-1].facts) < size:
            return len(state.shards) - 1, size - len(state.shards[-1].facts)
        return len(state.shards), size

    def _train(
        self, state: EditState, number: int, group: Sequence[Fact], memo: Memo
    ) -> tuple[EditState, Outcome]:
        """Train ``group`` into shard ``number``, beside what the shard already answers."""
        before = state.shards[number] if number < len(state.shards) else None
        rehearsed: list[Fact] = []
        if before is not None and self.settings.training == "joint":
            fresh = {fact.id for fact in group}
            rehearsed = [
                state.facts[key]
                for key in before.facts
                if key not in state.closed and key not in fresh
            ]
        trained = [*group, *rehearsed]
        groups = (*(before.groups if before else ()), tuple(fact.id for fact in trained))
        key = self._recipe(state, number, groups)
        kept = memo.get(key)
        if kept is not None:
            tensors = load_tensors(kept)
            shard = Shard.unpacked((), {k: v for k, v in tensors.items() if k not in _OUTCOME})
            outcome = Outcome(
                shard.values,
                int(tensors["iterations"]),
                tuple(tensors["failed"].tolist()),
                shard.threshold,
            )
        else:
            projection = self.base.projection
            shape = (projection.out_features, projection.in_features)
            mask = (
                before.shard.mask
                if before
                else random_mask(shape, self.settings.mask_ratio, self.seed * 1_000_003 + number)
            )
            start = before.shard.values if before else torch.zeros(int(mask.sum()))
            outcome = self._outcome(trained, mask, start, number)
            floor = before.shard.threshold if before else float("inf")
            shard = Shard((), mask, outcome.values, min(outcome.threshold, floor))
            extra = {
                "iterations": torch.tensor([outcome.iterations]),
                "failed": torch.tensor(outcome.failed, dtype=torch.long),
            }
            memo.put(key, to_bytes(shard.packed() | extra))
        record = ShardRecord(groups, shard)
        record = replace(record, shard=replace(shard, facts=record.facts))
        return replace(state, shards=(*state.shards[:number], record)), outcome

    def _outcome(
        self, facts: Sequence[Fact], mask: torch.Tensor, start: torch.Tensor, number: int
    ) -> Outcome:
        s = self.settings
        rows = [self._rows(fact) for fact in facts]
        if s.training == "joint":
            flat = [row for of_fact in rows for row in of_fact]
            owners = [i for i, of_fact in enumerate(rows) for _ in of_fact]
            joint = JointSettings(s.max_steps, s.learning_rate, s.confidence)
            return jointly(self.base, flat, owners, mask, start, joint, self.seed + number)
        ordered = OrderedSettings(
            s.max_steps, s.learning_rate, alpha=s.alpha, beta=s.beta, gamma=s.gamma
        )
        irrelevant = [encode_prompt(self.base.tokenizer, text) for text in UNRELATED]
        calm = [Row(ids, len(ids)) for ids in irrelevant]
        return in_order(self.base, rows, calm, mask, start, ordered)

    def _rows(self, fact: Fact) -> list[Row]:
        """The bare prompt first, then variants, then prefixed forms, each with the target."""
        rows = [self._row(prompt, fact.target) for prompt in (fact.prompt, *fact.variants)]
        for prompt in prefixed(fact, self._prefixes, self.settings.prefixes):
            with suppress(PromptTooLong):  # a beginning of ours must not refuse a long prompt
                rows.append(self._row(prompt, fact.target))
        return rows

    def _row(self, prompt: str, target: str) -> Row:
        context = self.base.architecture.context
        return encode_pair(self.base.tokenizer, prompt, target, stop=True, context=context)

    @cached_property
    def _prefixes(self) -> list[str]:
        """Ten unrelated beginnings: five seeds, each continued by the base by 5 and 10 tokens."""
        found = []
        for length in (5, 10):
            for seed, said in zip(
                PREFIX_SEEDS, answers(self.base, list(PREFIX_SEEDS), length), strict=True
            ):
                found.append(f"{seed} {said.text}".strip())
        return found

    def _recipe(self, state: EditState, number: int, groups: Sequence[Sequence[str]]) -> str:
        """The key of a shard: a digest of all that its training depends on."""
        trained = {
            key: [state.facts[key].prompt, state.facts[key].target, *state.facts[key].variants]
            for group in groups
            for key in group
        }
        told = [
            self._fingerprint,
            self.base.layer,
            asdict(self.settings),
            self.seed,
            number,
            [list(group) for group in groups],
            trained,
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    # --- routing and attaching ------------------------------------------------------------------

    def _fitted(self, state: EditState) -> dict[str, torch.Tensor]:
        """The router's tensors for ``state``."""
        if self.settings.router != "key":
            return {}
        shard_of = state.shard_of()
        facts = [fact for fact in state.facts.values() if fact.id not in state.closed]
        shards = [shard_of[fact.id] for fact in facts]
        calibration = Calibration.from_tensors(state.router)
        told = KeySettings(false_open=self.settings.false_open)
        fitted = KeyRouter.fit(self.base, facts, shards, calibration, self._calm_prefixes, told)
        numbers = {key: number for number, key in enumerate(state.facts)}
        # Facts closed later keep their keys, so that closing one moves no other prompt.
        known = torch.tensor([numbers[fact.id] for fact in facts], dtype=torch.long)
        return {**fitted.tensors(), "facts": known}

    @property
    def _calm_prefixes(self) -> list[str]:
        """Unrelated beginnings for keys: those of training and plain sentences of our own."""
        return [*self._prefixes, *UNRELATED]

    def attach(self, state: EditState) -> AbstractContextManager[Attached]:
        """The base with the edits of ``state``, inside ``with``.

        Raises:
            StateMismatch: ``state`` belongs to another base.
        """
        self._require(state)
        memories = self._memories([record.shard for record in state.shards])
        return attached(self.base, memories, self._router(state, memories))

    def _memories(self, shards: Sequence[Shard]) -> list[Shard]:
        """The shards, every full ``merge_every`` of them merged into one (WISE section 2.3.3)."""
        every = self.settings.merge_every
        if every < 1:
            return list(shards)
        merged = []
        for start in range(0, len(shards), every):
            part = shards[start : start + every]
            if len(part) == 1:
                merged.append(part[0])
                continue
            delta = merge(
                self.settings.merge, [shard.delta() for shard in part], self.settings.density
            )
            mask = delta != 0
            facts = tuple(fact for shard in part for fact in shard.facts)
            threshold = min(shard.threshold for shard in part)
            merged.append(Shard(facts, mask, delta[mask], threshold))
        return merged

    def _router(self, state: EditState, memories: Sequence[Shard]) -> Router:
        if not memories:
            return MainRouter()
        if self.settings.router == "activation":
            return ActivationRouter(self.base, memories, self.settings.act_ratio)
        everything = list(state.facts.values())
        facts = [everything[number] for number in state.router["facts"].tolist()]
        shard_of = state.shard_of()
        every = max(1, self.settings.merge_every)
        places = [-1 if fact.id in state.closed else shard_of[fact.id] // every for fact in facts]
        return KeyRouter(self.base, facts, places, state.router)

    # --- the base -------------------------------------------------------------------------------

    @cached_property
    def _fingerprint(self) -> str:
        return self.base.fingerprint()

    def _require(self, state: EditState) -> None:
        if state.fingerprint != self._fingerprint:
            raise StateMismatch(
                f"these edits were made on base {state.fingerprint[:16]}, "
                f"this base is {self._fingerprint[:16]}",
                "open the store with the model that it was made for",
            )


def _entered(state: EditState, group: Sequence[Fact]) -> tuple[EditState, dict[str, str]]:
    """``state`` knowing ``group``, with the facts closed whose prompt it takes over."""
    facts, closed = dict(state.facts), dict(state.closed)
    answering = {fact.prompt: fact.id for fact in state.in_force()}
    replaced: dict[str, str] = {}
    for fact in group:
        old = answering.get(fact.prompt)
        if old is not None and old != fact.id:
            closed[old] = Closed("superseded", fact.id)
            replaced[old] = fact.id
        answering[fact.prompt] = fact.id
        facts.pop(fact.id, None)  # one that comes back is the newest again
        closed.pop(fact.id, None)
        facts[fact.id] = fact
    return replace(state, facts=facts, closed=closed), replaced


_OUTCOME = ("iterations", "failed")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise EditorError(f"setting {name!r} takes {', '.join(allowed)}, not {value!r}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise EditorError(f"setting {name!r} takes a number from {low} to {high}, not {value}")


METHOD = Wise
