"""Which call a forward of the model belongs to.

What is decided of prompts is held while they are answered, and rides with the cache: streams may be
interleaved, and threads may share a model. A cache is recognised by its type,
``transformers.Cache``, not by the name of the keyword that carries it, which differs between
releases. Within ``generate`` the prompts are its own arguments, so a prompt that is read in chunks,
without a cache, or behind a prefix that a cache already holds, is still one prompt. A cache that
was filled under another decision is filled again. So each way of running a model answers as one
plain cached call would.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from secrets import token_hex
from typing import Any

import torch
from transformers import Cache

from editors.errors import EditorError
from editors.inference.calls import Call, Forward, Repeat, begin_forward, end_forward
from editors.inference.calls import running_forward as running
from editors.inference.decisions import UNCLAIMED, Decision, Router
from editors.model.base_model import Base, is_probing

_RECORD = "_editcli_record"  # the attribute of a cache that says what it holds


@dataclass(slots=True)
class _Record:
    """What a cache holds: the ids ``[rows, columns]`` that it was fed, in pieces (None: not known),
    for the call of ``forward``. ``owner`` names the tracker."""

    owner: str
    forward: Forward
    pieces: list[torch.Tensor] | None

    def ids(self, columns: int) -> torch.Tensor | None:
        """int64 ``[rows, columns]``: what the first ``columns`` of the cache hold."""
        if self.pieces is not None:
            self.pieces = [torch.cat(self.pieces, 1)[:, :columns]]
        return self.pieces[0] if self.pieces else None


@dataclass(eq=False, slots=True)
class _Scope:
    """What is known of the forwards to come, in this thread.

    ``begin`` makes a call of a forward's ids and mask. Where ``held``, the call holds for all
    forwards of the scope. ``repeat``: how larger batches repeat its rows; ``behind``: they hold
    what comes after the prompts. ``prompt_ids``: what ``generate`` was given.
    """

    tracker: CallTracker
    begin: Callable[[torch.Tensor, torch.Tensor | None], Call]
    held: bool = True
    repeat: Repeat = "each"
    behind: bool = False
    call: Call | None = None
    prompt_ids: torch.Tensor | None = None


_scope: ContextVar[_Scope | None] = ContextVar("scope", default=None)
_noted: ContextVar[tuple[list[Call], ...]] = ContextVar("noted", default=())


class CallTracker:
    """Assigns the forwards of a model to calls, and has each call decided by a router."""

    def __init__(self, base: Base, router: Router | None, *, reads_forwards: bool) -> None:
        """``reads_forwards``: the router may read the forward that answers."""
        self._base, self._router, self._reads_forwards = base, router, reads_forwards
        self._ids_name: str = base.model.main_input_name
        self._parameters = list(inspect.signature(base.model.forward).parameters)
        self._owner = token_hex(8)

    # --- for whoever runs the model -------------------------------------------------------------

    @contextmanager
    def noting(self) -> Iterator[list[Call]]:
        """The calls that are begun inside ``with``, in this thread, in order."""
        noted: list[Call] = []
        token = _noted.set((*_noted.get(), noted))
        try:
            yield noted
        finally:
            _noted.reset(token)

    @contextmanager
    def scoring(self, prompt_lengths: torch.Tensor) -> Iterator[None]:
        """Prompts end after ``prompt_lengths`` ``[rows]`` real tokens, not where rows end.

        For forwards over prompts and targets: a target must not take part in the decision.
        """

        def begin(ids: torch.Tensor, mask: torch.Tensor | None) -> Call:
            real = _mask(ids, mask)
            return Call.of(ids, real * (real.cumsum(1) <= prompt_lengths.to(ids.device)[:, None]))

        with self._within(_Scope(self, begin, held=False)):
            yield

    @contextmanager
    def continuing(self, call: Call) -> Iterator[None]:
        """Forwards inside ``with`` come after the prompts of ``call``, and repeat its rows in
        turn."""
        with self._within(_Scope(self, lambda *_: call, repeat="all", behind=True, call=call)):
            yield

    @contextmanager
    def _within(self, scope: _Scope) -> Iterator[None]:
        token = _scope.set(scope)
        try:
            yield
        finally:
            _scope.reset(token)

    def generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """``generate``, whose forwards belong to one call."""

        @wraps(generate)
        def run(*args: Any, **kwargs: Any) -> Any:
            given = kwargs.get(self._ids_name, kwargs.get("inputs", args[0] if args else None))
            prompt_ids = given if isinstance(given, torch.Tensor) and given.ndim == 2 else None

            def begin(ids: torch.Tensor, mask: torch.Tensor | None) -> Call:
                if prompt_ids is None:  # generate makes a prompt of its own
                    return Call.of(ids, _mask(ids, mask))
                told = kwargs.get("attention_mask")
                if told is None and (pad := self._pad(kwargs)) is not None:
                    told = (prompt_ids != pad).long()
                return Call.of(prompt_ids, _mask(prompt_ids, told))

            with self._within(_Scope(self, begin, prompt_ids=prompt_ids)):
                return generate(*args, **kwargs)

        return run

    # --- hooks on the model ---------------------------------------------------------------------

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward of the model begins: find its call, and decide what can be decided now."""
        if is_probing():
            return
        outer = running()
        try:
            begin_forward(self._begun(args, kwargs, outer))
        except BaseException:
            begin_forward(Forward.broken(outer))  # :meth:`after` is called all the same
            raise

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A forward of the model ends; ``output`` is None where it broke off."""
        if is_probing():
            return
        forward = end_forward()
        if forward is None or not isinstance(output, dict):
            return
        for value in output.values():
            if isinstance(value, Cache) and not hasattr(value, _RECORD):  # the model made it
                ids = kwargs[self._ids_name] if self._ids_name in kwargs else args[0]
                setattr(value, _RECORD, _Record(self._owner, forward, [ids]))

    # --- how ------------------------------------------------------------------------------------

    def _begun(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], outer: Forward | None
    ) -> Forward:
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        ids = given.get(self._ids_name)
        if ids is None:
            raise EditorError("prompts are known by their tokens, but only embeddings were given")
        cache = next((value for value in given.values() if isinstance(value, Cache)), None)
        past = 0 if cache is None else int(cache.get_seq_length())
        record: _Record | None = getattr(cache, _RECORD, None) if past else None
        scope = _scope.get()
        scope = scope if scope is not None and scope.tracker is self else None
        call, begun = self._call(ids, given.get("attention_mask"), past, record, scope)
        if len(ids) % len(call.prompts):
            raise EditorError(
                f"{len(ids)} rows were given to a call of {len(call.prompts)} prompts",
                "start a new generation",
            )
        repeat: Repeat = scope.repeat if scope else "each"
        behind = int(call.ends.max()) if scope and scope.behind else past
        forward = Forward(call, len(ids), ids.shape[1], behind, repeat, outer)
        if call.decisions is None:
            self._decide(forward)
        if begun and past:
            record = self._refilled(forward, record, given, scope)
        if record is not None and record.pieces is not None:
            record.pieces.append(ids)
        if cache is not None:
            if record is None:
                known = len(ids) == len(call.prompts)  # a beam search moves rows about
                record = _Record(self._owner, forward, [ids] if known else None)
            setattr(cache, _RECORD, record)
        return forward

    def _call(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        past: int,
        record: _Record | None,
        scope: _Scope | None,
    ) -> tuple[Call, bool]:
        """The call of a forward, and whether the forward begins it."""
        if scope is not None and scope.call is not None:
            return scope.call, False
        if scope is not None:
            call = scope.begin(ids, mask)
            scope.call = call if scope.held else None
        elif not past:
            call = Call.of(ids, _mask(ids, mask))
        elif record is not None and record.owner == self._owner and ids.shape[1] == 1:  # decoding
            return record.forward.call, False
        else:  # a prompt that goes on where the cache ends
            before = None if record is None else record.ids(past)
            if before is None:
                raise EditorError(_UNKNOWN_CACHE, _WHOLE_PROMPT)
            whole = torch.cat([before, ids], 1)
            call = Call.of(whole, _mask(whole, mask))
        for noted in _noted.get():
            noted.append(call)
        return call, True

    def _pad(self, told: dict[str, Any]) -> int | None:
        """The token that ``generate`` takes for a pad where it is given no mask."""
        config = self._base.model.generation_config
        pad: int | None = told.get("pad_token_id", config.pad_token_id)
        ends = told.get("eos_token_id", config.eos_token_id)
        return None if pad in (ends if isinstance(ends, list) else [ends]) else pad

    def _decide(self, forward: Forward) -> None:
        call, router, base = forward.call, self._router, self._base
        if router is None:
            call.decisions = [UNCLAIMED] * len(call.prompts)
            return
        with base.probing():
            proposal = router.propose(call.prompts)

        def decide(states: torch.Tensor | None) -> list[Decision]:
            with base.probing():
                return router.decide(proposal, states)

        if not proposal.candidates:
            call.decisions = proposal.decisions
        elif not (self._reads_forwards and forward.decide_by(proposal.open_rows, decide)):
            call.decisions = decide(None)

    def _refilled(
        self,
        forward: Forward,
        record: _Record | None,
        given: dict[str, Any],
        scope: _Scope | None,
    ) -> _Record:
        """What the cache holds, filled again where it was filled under other decisions."""
        past = forward.past
        name, cache = next((k, v) for k, v in given.items() if isinstance(v, Cache))
        if scope is not None and scope.prompt_ids is not None:
            times = forward.rows // len(scope.prompt_ids)
            ids: torch.Tensor | None = scope.prompt_ids[:, :past].repeat_interleave(times, 0)
        else:
            ids = None if record is None else record.ids(past)
        now = forward.memories()
        before: list[int] | None = [
            -1
        ] * forward.rows  # a cache without a record was filled by the unedited base
        if record is not None:
            before = record.forward.memories() if record.owner == self._owner else None
        if before != now:
            if ids is None:
                raise EditorError(_UNKNOWN_CACHE, _WHOLE_PROMPT)
            _empty(cache)
            told: dict[str, Any] = {self._ids_name: ids, name: cache, "use_cache": True}
            mask = given.get("attention_mask")
            if mask is not None and mask.ndim == 2:
                told["attention_mask"] = mask[:, :past]
            if given.get("position_ids") is not None:
                real = _mask(ids, told.get("attention_mask"))
                told["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
            scope = _Scope(self, lambda *_: forward.call, repeat=forward.repeat, call=forward.call)
            with self._within(scope):
                self._base.model(**told)
        return _Record(self._owner, forward, None if ids is None else [ids])


_UNKNOWN_CACHE = "it is not known what tokens this cache holds: it was filled elsewhere"
_WHOLE_PROMPT = "give `generate` the cache together with all tokens, or start with a new cache"


def _empty(cache: Cache) -> None:
    """Take all that it holds out of a cache; raises EditorError where that cannot be done."""
    cache.reset()
    try:
        if length := int(cache.get_seq_length()):
            cache.crop(-length)
    except (AttributeError, NotImplementedError, ValueError):
        pass
    if int(cache.get_seq_length()):
        raise EditorError(
            f"a {type(cache).__name__} that was filled under another decision cannot be emptied",
            "start with a new cache",
        )


def _mask(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """int64 ``[rows, columns]``; ones where there is no mask, or none of that shape."""
    return mask if mask is not None and mask.shape == ids.shape else torch.ones_like(ids)
