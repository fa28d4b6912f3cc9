"""WISE: lifelong edits in a side memory of one projection, sharded and routed.

Wang et al., "WISE: Rethinking the Knowledge Memory for Lifelong Model Editing of Large Language
Models", NeurIPS 2024 (arXiv 2405.14768). The main memory stays frozen; a shard holds at most
``shard_size`` facts on a random mask of its own; a router decides which memory answers.

``profile=paper`` takes the paper's choices: edits trained one after the other with the margins of
Eq. 5, the activation router, and shards merged by TIES. ``profile=robust``, the default, trains the
facts of a shard together on their targets and routes by keys. A fact that comes to a shard alone is
trained beside those of its facts that it might spoil.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice
from typing import ClassVar

import torch
from safetensors.torch import load as load_tensors

from editors.errors import StateMismatch
from editors.facts import Closed, Fact
from editors.heads.head_mask import NOTHING_PRUNED
from editors.inference.attach import Attached, attached
from editors.inference.generation import answers
from editors.inference.hidden_states import Asked
from editors.methods.base import UNLIMITED, Applied, Limits, Memo, Progress
from editors.methods.edit_state import EditState, Group, Scalar, ShardRecord, to_bytes
from editors.methods.training.suffix_replay import require_replay
from editors.methods.wise.merging import merge
from editors.methods.wise.settings import settings_from
from editors.methods.wise.shards import Mask, Memory, Merged, Shard
from editors.methods.wise.training.joint import (
    BETAS,
    JointSettings,
    OrderedSettings,
    Outcome,
    in_order,
    jointly,
    rows_on,
)
from editors.model.base_model import Base
from editors.model.tokenization import Row, encode_pairs, encode_prompt, require_fit
from editors.scope.base import ActivationRouter, MainRouter, Router
from editors.scope.calibration import Calibration, CalibrationSettings, Phrasings, calibrate
from editors.scope.keys import (
    KeyRouter,
    KeySettings,
    Looking,
    Yielding,
    nearest,
    packed,
    unpacked,
)
from editors.scope.unrelated_prompts import PREFIX_SEEDS, UNRELATED, prefixed

REHEARSED = 8  # facts that a shard holds which are trained again beside a fresh one
WATCHED = 4  # times as many are looked at, and trained again where the fresh one spoilt them
ENTRIES_A_FACT = 5000  # of the projection; with fewer, facts get in each other's way
FEWEST, MOST = 20, 200  # facts in a shard


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
        """The state of a base without edits; the key router is calibrated on ``phrasings``.

        Raises:
            UnsupportedArchitecture: an edit cannot be trained from what is recorded of the base.
        """
        base = self.base
        asked = encode_pairs(base.tokenizer, [(text, "yes") for text in UNRELATED[:2]], stop=True)
        require_replay(base.model, base.architecture, base.layer, base.batch(asked))
        router: dict[str, torch.Tensor] = {}
        if self.settings.router == "key":
            s = self.settings
            told = CalibrationSettings(rank=s.rank, false_open=s.false_open)
            prefixes = self.calm_prefixes
            router = calibrate(self.base, phrasings, prefixes, told).tensors()
        return EditState(
            self.name,
            self._told,
            self.base.layer,
            self.base.anchor.path,
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
        limits: Limits = UNLIMITED,
    ) -> Applied:
        """``state`` with ``facts`` applied in order, as many together as the shard in hand takes
        and ``limits`` allow.

        A fact in force already is left alone; one whose prompt is already edited supersedes the
        older one. Finished shards are kept in ``memo``, so that a killed run goes on where it was.

        Raises:
            StateMismatch: ``state`` belongs to another base.
            EditorError: a fact cannot be encoded; nothing is then applied.
        """
        self._require(state)
        fresh, unchanged = self._fresh(state, facts)
        applied: list[str] = []
        superseded: dict[str, str] = {}
        failed: list[str] = []
        iterations, reached = 0, 0
        while reached < len(fresh):
            number, group = self._next_group(state, facts, fresh, reached, limits)
            state, replaced = _entered(state, group)
            state, outcome, judged = self._train(state, number, group, memo, limits.memory)
            reached += len(group)
            iterations += outcome.iterations
            applied += [fact.id for fact in group]
            superseded |= replaced
            failed = [fact for fact in failed if fact not in judged]  # judged again
            failed += [judged[i] for i in outcome.failed]
            if not on_progress(Progress(reached, len(fresh), iterations)):
                break
        if applied and self.settings.router == "key":
            standing = [fact.id for fact in state.in_force()]
            state = self._acquainted(state, standing)  # one that came back may be unknown
            state = replace(state, seen={key: state.seen[key] for key in standing})
        superseded = {old: by for old, by in superseded.items() if old in state.closed}
        return Applied(
            state,
            tuple(dict.fromkeys(fact for fact in applied if fact not in superseded)),
            tuple(unchanged),
            superseded,
            tuple(fact for fact in failed if fact not in state.closed),
            tuple(facts[number].id for number in fresh[reached:]),
            iterations,
        )

    def prepare(
        self,
        state: EditState,
        facts: Sequence[Fact],
        *,
        memo: Memo,
        mine: Callable[[int], bool],
        limits: Limits = UNLIMITED,
    ) -> None:
        """Train some of the shards that :meth:`apply` would train, and leave them in ``memo``.

        ``mine``: the numbers of the shards that are wanted. Shards do not depend on each other, so
        several processes may take some each; what :meth:`apply` then finds is what it would have
        trained itself.

        Raises:
            StateMismatch: ``state`` belongs to another base.
            EditorError: a fact cannot be encoded.
        """
        self._require(state)
        fresh, _ = self._fresh(state, facts)
        reached = 0
        while reached < len(fresh):
            number, group = self._next_group(state, facts, fresh, reached, limits)
            state, _ = _entered(state, group)
            if mine(number):
                state, _, _ = self._train(state, number, group, memo, limits.memory)
            else:  # only what is in it matters here, not its values
                groups = _grown(state, number, _fresh_of(state, group))
                untrained = Shard((), self._mask(number), torch.zeros(0))
                state = _placed(state, number, groups, untrained)
            reached += len(group)

    def _next_group(
        self,
        state: EditState,
        facts: Sequence[Fact],
        fresh: Sequence[int],
        reached: int,
        limits: Limits,
    ) -> tuple[int, Sequence[Fact]]:
        """The number of the shard that takes the next facts, and those that it takes."""
        number, room = self._open_shard(state)
        taken = fresh[reached : reached + min(room, limits.at_once or room)]
        return number, [facts[i] for i in taken]

    def _fresh(self, state: EditState, facts: Sequence[Fact]) -> tuple[array[int], list[str]]:
        """The numbers of the facts that change something, and the ids of those that do not.

        ``facts`` may be read from a file one by one: none is held. What could be refused is refused
        here, before anything is trained.

        Raises:
            EditorError: a fact cannot be encoded.
        """
        answering = {fact.prompt: (fact.target, fact.id) for fact in state.in_force()}
        fresh, unchanged = array("Q"), []
        for number, fact in enumerate(facts):
            target, current = answering.get(fact.prompt, (None, ""))
            if target == fact.target:
                unchanged.append(current)
                continue
            self._rows([fact], 0)
            answering[fact.prompt] = fact.target, fact.id
            fresh.append(number)
        return fresh, unchanged

    def _open_shard(self, state: EditState) -> tuple[int, int]:
        """The number of the shard that takes the next fact, and how many it has room for."""
        size = self._shard_size
        if state.shards and len(state.shards[-1].facts) < size:
            return len(state.shards) - 1, size - len(state.shards[-1].facts)
        return len(state.shards), size

    @property
    def _shard_size(self) -> int:
        """How many facts a shard takes: as set, or as many as its projection has room for."""
        entries = self.base.projection.out_features * self.base.projection.in_features
        return self.settings.shard_size or min(MOST, max(FEWEST, entries // ENTRIES_A_FACT))

    def _standing(
        self, state: EditState, number: int, fresh: Group
    ) -> tuple[EditState, Group, Looking | None]:
        """What shard ``number`` is trained on or looked at for, and ``state`` knowing enough.

        The ``fresh`` facts first, then those that it held before and that are most like them: facts
        of a shard get in each other's way where the base takes them for alike. So many and no more
        that an edit costs the same however full its shard is. Where that takes a look at the fresh
        ones, it comes with them.
        """
        if number == len(state.shards) or self.settings.training == "ordered":
            return state, fresh, None
        gone = {*fresh, *state.closed}
        held = [key for key in state.shards[number].facts if key not in gone]
        looking = None
        if fresh and len(held) > _rehearsed(fresh):
            state = self._acquainted(state, held)
            looking = self._looking(state, fresh)
            asked = torch.stack([looking.keys[key][0] for key in fresh])  # [fresh, rank]
            held.sort(key=lambda key: -nearest(asked, state.seen[key].keys[0]))
        return state, (*fresh, *held[: WATCHED * _rehearsed(fresh)]), looking

    def _mask(self, number: int) -> Mask:
        shape = (self.base.projection.out_features, self.base.projection.in_features)
        return Mask(shape, self.settings.mask_ratio, (self.seed * 1_000_003 + number) % 2**63)

    def _train(
        self,
        state: EditState,
        number: int,
        group: Sequence[Fact],
        memo: Memo,
        memory: int | None,
    ) -> tuple[EditState, Outcome, Group]:
        """Train ``group`` into shard ``number``, beside what the shard already answers, and let the
        key router meet it.

        The ids that the outcome's numbers stand for come with it.
        """
        fresh = _fresh_of(state, group)
        state, standing, looking = self._standing(state, number, fresh)
        groups = _grown(state, number, standing[: len(group) + _rehearsed(group)])
        key = self._recipe(state, number, groups, fresh, standing)
        kept = memo.get(key)
        if kept is not None:
            tensors = load_tensors(kept)
            shard = Shard.unpacked((), tensors)
            failed = tuple(tensors["failed"].tolist())
            outcome = Outcome(shard.values, int(tensors["iterations"]), failed, shard.threshold)
        else:
            before = state.shards[number].shard if number < len(state.shards) else None
            mask = before.mask if before else self._mask(number)
            start = before.values if before else None
            floor = before.threshold if before else float("inf")
            facts = [state.facts[key] for key in standing]
            if self.settings.router == "key":
                looking = looking or self._looking(state, fresh)
            along = looking.asked if looking else None
            outcome = self._outcome(facts, len(groups[-1]), mask, start, number, memory, along)
            shard = Shard((), mask, outcome.values, min(outcome.threshold, floor))
            tensors = shard.packed() | {
                "iterations": torch.tensor([outcome.iterations]),
                "failed": torch.tensor(outcome.failed, dtype=torch.long),
            }
            if looking:
                tensors |= packed(list(looking.seen().values()))
            memo.put(key, to_bytes(tensors))
        if self.settings.router == "key":
            met = dict(zip(fresh, unpacked(tensors), strict=True))
            state = replace(state, seen={**state.seen, **met})
        return _placed(state, number, groups, shard), outcome, standing

    def _outcome(
        self,
        facts: Sequence[Fact],
        taught: int,
        mask: Mask,
        start: torch.Tensor | None,
        number: int,
        memory: int | None,
        along: Asked | None,
    ) -> Outcome:
        s = self.settings
        rows = self._rows(facts, s.prefixes)
        if s.training == "joint":
            rows_at_once = rows_on(self.base.device)
            joint = JointSettings(s.max_steps, s.learning_rate, s.confidence, rows_at_once)
            seed = self.seed + number
            return jointly(self.base, rows, taught, mask, start, joint, seed, memory, along)
        ordered = OrderedSettings(
            s.max_steps, s.learning_rate, alpha=s.alpha, beta=s.beta, gamma=s.gamma
        )
        irrelevant = [encode_prompt(self.base.tokenizer, text) for text in UNRELATED]
        calm = [Row(ids, len(ids)) for ids in irrelevant]
        return in_order(self.base, rows, calm, mask, start, ordered, memory)

    def _rows(self, facts: Sequence[Fact], count: int) -> list[list[Row]]:
        """For each fact its prompt, its variants and ``count`` prefixed forms, with the target.

        Raises:
            EditorError: the prompt or a variant cannot be encoded, or is too long.
        """
        forms = [
            [fact.prompt, *fact.variants, *prefixed(fact, self._prefixes, count)] for fact in facts
        ]
        pairs = [(text, f.target) for f, own in zip(facts, forms, strict=True) for text in own]
        encoded = iter(encode_pairs(self.base.tokenizer, pairs, stop=True))
        context = self.base.architecture.context
        found = []
        for fact, own in zip(facts, forms, strict=True):
            rows = list(islice(encoded, len(own)))
            for prompt, row in zip((fact.prompt, *fact.variants), rows, strict=False):
                require_fit(row, prompt, context)
            # A beginning of ours must not refuse a long prompt.
            found.append([row for row in rows if context is None or len(row.ids) <= context])
        return found

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

    def _recipe(
        self,
        state: EditState,
        number: int,
        groups: Sequence[Group],
        fresh: Sequence[str],
        standing: Sequence[str],
    ) -> str:
        """The key of a shard: a digest of all that its training and the look at it depend on."""
        facts = [state.facts[key] for group in groups for key in group]
        trained = {f.id: [f.subject, f.prompt, f.target, *f.variants] for f in facts}
        told = [
            self._fingerprint,
            self.base.layer,
            str(self.base.projection.weight(self.base.model).dtype),
            asdict(self.settings),
            self.seed,
            number,
            [list(group) for group in groups],
            list(fresh),
            list(standing),
            trained,
            [rows_on(self.base.device), *BETAS],
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    # --- routing and attaching ------------------------------------------------------------------

    def _acquainted(self, state: EditState, facts: Sequence[str]) -> EditState:
        """``state`` with what the key router sees of these facts; it looks at those it is to meet.

        Facts closed later keep their keys, so that closing one moves no other prompt.
        """
        unknown = [key for key in facts if key not in state.seen]
        if not unknown:
            return state
        return replace(state, seen={**state.seen, **self._looking(state, unknown).seen()})

    def _looking(self, state: EditState, facts: Sequence[str]) -> Looking:
        """A look at facts that the key router is to meet."""
        calibration = Calibration.from_tensors(state.router)
        met = [state.facts[key] for key in facts]
        return Looking(self.base, met, calibration, self.calm_prefixes, KeySettings())

    @property
    def calm_prefixes(self) -> list[str]:
        """Unrelated beginnings for keys: those of training and plain sentences of our own."""
        return [*self._prefixes, *UNRELATED]

    def attach(self, state: EditState) -> AbstractContextManager[Attached]:
        """The base with the edits of ``state``, inside ``with``.

        Raises:
            StateMismatch: ``state`` belongs to another base.
        """
        self._require(state)
        memories = self._memories([record.shard for record in state.shards])
        mask = state.resolution.mask if state.resolution else NOTHING_PRUNED
        return attached(self.base, memories, self._router(state, memories), mask)

    def _memories(self, shards: Sequence[Shard]) -> list[Memory]:
        """The shards, every full ``merge_every`` of them merged into one (WISE section 2.3.3)."""
        every = self.settings.merge_every
        if every < 1:
            return list(shards)
        merged: list[Memory] = []
        for start in range(0, len(shards), every):
            part = shards[start : start + every]
            if len(part) == 1:
                merged.append(part[0])
                continue
            delta = merge(
                self.settings.merge, [shard.delta() for shard in part], self.settings.density
            )
            merged.append(Merged(delta, min(shard.threshold for shard in part)))
        return merged

    def _router(self, state: EditState, memories: Sequence[Memory]) -> Router:
        if not memories:
            return MainRouter()
        if self.settings.router == "activation":
            return ActivationRouter(self.base, memories, self.settings.act_ratio)
        facts = [state.facts[key] for key in state.seen]
        shard_of = state.shard_of()
        every = max(1, self.settings.merge_every)
        places = [-1 if fact.id in state.closed else shard_of[fact.id] // every for fact in facts]
        calibration = Calibration.from_tensors(state.router)
        router = KeyRouter(self.base, facts, places, calibration, list(state.seen.values()))
        passage_first = state.resolution is not None and state.resolution.prefer == "context"
        return Yielding(router) if passage_first else router

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


def _fresh_of(state: EditState, group: Sequence[Fact]) -> Group:
    """The ids of a group that has been entered, less those that it supersedes itself."""
    return tuple(dict.fromkeys(fact.id for fact in group if fact.id not in state.closed))


def _grown(state: EditState, number: int, group: Group) -> tuple[Group, ...]:
    """The groups of shard ``number`` with one more."""
    before = state.shards[number].groups if number < len(state.shards) else ()
    return (*before, group)


def _rehearsed(group: Sized) -> int:
    """How many facts that a shard holds are trained again beside ``group``."""
    return max(REHEARSED, len(group))


def _entered(state: EditState, group: Sequence[Fact]) -> tuple[EditState, dict[str, str]]:
    """``state`` knowing ``group``, with the facts closed whose prompt it takes over."""
    facts, closed, seen = dict(state.facts), dict(state.closed), dict(state.seen)
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
        seen.pop(fact.id, None)
        facts[fact.id] = fact
    return replace(state, facts=facts, closed=closed, seen=seen), replaced


def _placed(state: EditState, number: int, groups: tuple[Group, ...], shard: Shard) -> EditState:
    """``state`` with ``shard``, trained on ``groups``, as its last shard, ``number``."""
    record = ShardRecord(groups, shard)
    record = replace(record, shard=replace(shard, facts=record.facts))
    return replace(state, shards=(*state.shards[:number], record))


METHOD = Wise
__all__ = ["METHOD", "Wise", "settings_from"]
