"""Finds the call that each forward of the model belongs to.

The decisions on prompts hold while the prompts are answered. They are stored with the cache, so
streams may be interleaved and threads may share a model. A cache is recognised by its type,
``transformers.Cache``, as the keyword that carries it differs between releases. Inside
``generate``, the prompts are the arguments of ``generate``. So a prompt counts as one prompt even
if it is read in chunks, without a cache, or after a prefix that is in the cache already. A cache
that was filled under other decisions is emptied and filled again. In this way, every way of running
a model gives the answers of one plain cached call.
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
from editors.inference.calls import (
    Call,
    Forward,
    Repeat,
    begin_forward,
    end_forward,
    running_forward,
)
from editors.inference.decisions import UNCLAIMED, Decision, Router
from editors.model.base_model import Base, is_probing

_CONTENTS = "_editcli_record"  # the attribute of a cache that holds its `_CacheContents`


@dataclass(slots=True)
class _CacheContents:
    """What a cache holds.

    ``owner``: the id of the tracker. ``forward``: the forward that began to fill the cache.
    ``pieces``: the ids ``[rows, columns]`` that were fed, forward by forward; None if not known.
    """

    owner: str
    forward: Forward
    pieces: list[torch.Tensor] | None

    def ids(self, columns: int) -> torch.Tensor | None:
        """int64 ``[rows, columns]``: the ids in the first ``columns`` of the cache, None if not
        known."""
        if self.pieces is not None:
            self.pieces = [torch.cat(self.pieces, 1)[:, :columns]]
        return self.pieces[0] if self.pieces else None


@dataclass(eq=False, slots=True)
class _Assignment:
    """How the forwards inside a ``with``, in this thread, are assigned to calls.

    ``begin`` makes a call from the ids and mask of a forward. If ``lasting``, that call is the call
    of all forwards; else each forward begins a call. ``repeat``: how a larger batch repeats the
    rows of the call. ``after_prompts``: forwards hold only what comes after the prompts. ``call``:
    the call of all forwards, once it is known. ``prompt_ids``: the prompts given to ``generate``.
    """

    tracker: CallTracker
    begin: Callable[[torch.Tensor, torch.Tensor | None], Call]
    lasting: bool = True
    repeat: Repeat = "each"
    after_prompts: bool = False
    call: Call | None = None
    prompt_ids: torch.Tensor | None = None


_assignment: ContextVar[_Assignment | None] = ContextVar("assignment", default=None)
_noted_calls: ContextVar[tuple[list[Call], ...]] = ContextVar("noted_calls", default=())


class CallTracker:
    """Assigns the forwards of a model to calls, and lets a router decide each call."""

    def __init__(self, base: Base, router: Router | None, *, reads_forwards: bool) -> None:
        """``reads_forwards``: the router may read hidden states of the answering forward."""
        self._base, self._router, self._reads_forwards = base, router, reads_forwards
        self._ids_name: str = base.model.main_input_name
        self._parameters = list(inspect.signature(base.model.forward).parameters)
        self._owner = token_hex(8)

    # --- for code that runs the model -----------------------------------------------------------

    @contextmanager
    def noting(self) -> Iterator[list[Call]]:
        """A list of the calls that begin inside ``with``, in this thread, in order."""
        calls: list[Call] = []
        token = _noted_calls.set((*_noted_calls.get(), calls))
        try:
            yield calls
        finally:
            _noted_calls.reset(token)

    @contextmanager
    def scoring(self, prompt_lengths: torch.Tensor) -> Iterator[None]:
        """Inside ``with``, prompts are the first ``prompt_lengths`` ``[rows]`` real tokens of rows.

        For forwards over prompts with targets, as a target must not take part in the decision.
        """

        def begin(ids: torch.Tensor, mask: torch.Tensor | None) -> Call:
            real = _mask(ids, mask)
            return Call.of(ids, real * (real.cumsum(1) <= prompt_lengths.to(ids.device)[:, None]))

        with self._within(_Assignment(self, begin, lasting=False)):
            yield

    @contextmanager
    def continuing(self, call: Call) -> Iterator[None]:
        """Inside ``with``, forwards hold tokens after the prompts of ``call``. All rows of the call
        follow each other, as often as the batch has room for them."""
        with self._within(
            _Assignment(self, lambda *_: call, repeat="all", after_prompts=True, call=call)
        ):
            yield

    @contextmanager
    def _within(self, assignment: _Assignment) -> Iterator[None]:
        token = _assignment.set(assignment)
        try:
            yield
        finally:
            _assignment.reset(token)

    def generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """``generate``, wrapped so that its forwards belong to one call."""

        @wraps(generate)
        def run(*args: Any, **kwargs: Any) -> Any:
            inputs = kwargs.get(self._ids_name, kwargs.get("inputs", args[0] if args else None))
            prompt_ids = inputs if isinstance(inputs, torch.Tensor) and inputs.ndim == 2 else None

            def begin(ids: torch.Tensor, mask: torch.Tensor | None) -> Call:
                if prompt_ids is None:  # generate makes a prompt itself
                    return Call.of(ids, _mask(ids, mask))
                prompt_mask = kwargs.get("attention_mask")
                if prompt_mask is None and (pad := self._pad(kwargs)) is not None:
                    prompt_mask = (prompt_ids != pad).long()
                return Call.of(prompt_ids, _mask(prompt_ids, prompt_mask))

            with self._within(_Assignment(self, begin, prompt_ids=prompt_ids)):
                return generate(*args, **kwargs)

        return run

    # --- hooks on the model ---------------------------------------------------------------------

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward of the model begins: find its call, and decide as far as possible."""
        if is_probing():
            return
        outer = running_forward()
        try:
            begin_forward(self._new_forward(args, kwargs, outer))
        except BaseException:
            begin_forward(Forward.broken(outer))  # as :meth:`after` is called nevertheless
            raise

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A forward of the model ends; ``output`` is None if it raised an error."""
        if is_probing():
            return
        forward = end_forward()
        if forward is None or not isinstance(output, dict):
            return
        for value in output.values():
            if isinstance(value, Cache) and not hasattr(value, _CONTENTS):  # the model made it
                ids = kwargs[self._ids_name] if self._ids_name in kwargs else args[0]
                setattr(value, _CONTENTS, _CacheContents(self._owner, forward, [ids]))

    # --- from forwards to calls -----------------------------------------------------------------

    def _new_forward(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], outer: Forward | None
    ) -> Forward:
        """The forward that begins with these arguments; ``outer``: the forward it interrupts."""
        arguments = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        ids = arguments.get(self._ids_name)
        if ids is None:
            raise EditorError("prompts are known by their tokens, but only embeddings were given")
        cache = next((value for value in arguments.values() if isinstance(value, Cache)), None)
        past = 0 if cache is None else int(cache.get_seq_length())
        contents: _CacheContents | None = getattr(cache, _CONTENTS, None) if past else None
        assignment = _assignment.get()
        assignment = assignment if assignment is not None and assignment.tracker is self else None
        call, begins = self._call(ids, arguments.get("attention_mask"), past, contents, assignment)
        if len(ids) % len(call.prompts):
            raise EditorError(
                f"{len(ids)} rows were given to a call of {len(call.prompts)} prompts",
                "start a new generation",
            )
        repeat: Repeat = assignment.repeat if assignment else "each"
        columns_before = int(call.ends.max()) if assignment and assignment.after_prompts else past
        forward = Forward(call, len(ids), ids.shape[1], columns_before, repeat, outer)
        if call.decisions is None:
            self._decide(forward)
        if begins and past:
            contents = self._refilled(forward, contents, arguments, assignment)
        if contents is not None and contents.pieces is not None:
            contents.pieces.append(ids)
        if cache is not None:
            if contents is None:
                same_rows = len(ids) == len(call.prompts)  # else a beam search may reorder rows
                contents = _CacheContents(self._owner, forward, [ids] if same_rows else None)
            setattr(cache, _CONTENTS, contents)
        return forward

    def _call(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        past: int,
        contents: _CacheContents | None,
        assignment: _Assignment | None,
    ) -> tuple[Call, bool]:
        """The call of a forward, and whether the forward begins it."""
        if assignment is not None and assignment.call is not None:
            return assignment.call, False
        if assignment is not None:
            call = assignment.begin(ids, mask)
            assignment.call = call if assignment.lasting else None
        elif not past:
            call = Call.of(ids, _mask(ids, mask))
        elif contents is not None and contents.owner == self._owner and ids.shape[1] == 1:
            return contents.forward.call, False  # a step of decoding
        else:  # a prompt whose beginning is in the cache
            cached_ids = None if contents is None else contents.ids(past)
            if cached_ids is None:
                raise EditorError(_UNKNOWN_CACHE, _WHOLE_PROMPT)
            whole = torch.cat([cached_ids, ids], 1)
            call = Call.of(whole, _mask(whole, mask))
        for calls in _noted_calls.get():
            calls.append(call)
        return call, True

    def _pad(self, arguments: dict[str, Any]) -> int | None:
        """The id that ``generate`` treats as a pad if it gets no mask; None: no id."""
        config = self._base.model.generation_config
        pad: int | None = arguments.get("pad_token_id", config.pad_token_id)
        end_ids = arguments.get("eos_token_id", config.eos_token_id)
        return None if pad in (end_ids if isinstance(end_ids, list) else [end_ids]) else pad

    def _decide(self, forward: Forward) -> None:
        """Decide the call of ``forward``, now or once ``forward`` has the hidden states for it."""
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
        elif not (self._reads_forwards and forward.decide_by([*proposal.candidates], decide)):
            call.decisions = decide(None)

    def _refilled(
        self,
        forward: Forward,
        contents: _CacheContents | None,
        arguments: dict[str, Any],
        assignment: _Assignment | None,
    ) -> _CacheContents:
        """The contents of the cache, which is filled again if other decisions held before."""
        past = forward.past
        name, cache = next((k, v) for k, v in arguments.items() if isinstance(v, Cache))
        if assignment is not None and assignment.prompt_ids is not None:
            times = forward.rows // len(assignment.prompt_ids)
            ids: torch.Tensor | None = assignment.prompt_ids[:, :past].repeat_interleave(times, 0)
        else:
            ids = None if contents is None else contents.ids(past)
        memories = forward.memories()
        # A cache without contents was filled by the unedited base.
        memories_of_cache: list[int] | None = [-1] * forward.rows
        if contents is not None:
            memories_of_cache = (
                contents.forward.memories() if contents.owner == self._owner else None
            )
        if memories_of_cache != memories:
            if ids is None:
                raise EditorError(_UNKNOWN_CACHE, _WHOLE_PROMPT)
            _empty(cache)
            refill: dict[str, Any] = {self._ids_name: ids, name: cache, "use_cache": True}
            mask = arguments.get("attention_mask")
            if mask is not None and mask.ndim == 2:
                refill["attention_mask"] = mask[:, :past]
            if arguments.get("position_ids") is not None:
                real = _mask(ids, refill.get("attention_mask"))
                refill["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
            filling = _Assignment(
                self, lambda *_: forward.call, repeat=forward.repeat, call=forward.call
            )
            with self._within(filling):
                self._base.model(**refill)
        return _CacheContents(self._owner, forward, None if ids is None else [ids])


_UNKNOWN_CACHE = "it is not known what tokens this cache holds: it was filled elsewhere"
_WHOLE_PROMPT = "give `generate` the cache together with all tokens, or start with a new cache"


def _empty(cache: Cache) -> None:
    """Empty a cache; raises EditorError if its type cannot be emptied."""
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
    """int64 ``[rows, columns]``: ``mask``, or ones if there is no mask of the shape of ``ids``."""
    return mask if mask is not None and mask.shape == ids.shape else torch.ones_like(ids)
