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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from secrets import token_hex
from typing import Any

import torch
from transformers import Cache

from editors.errors import EditorError
from editors.inference.calls import Call, Forward, real_tokens, running
from editors.inference.decisions import Decision, NoClaims, Router
from editors.model.base_model import Base, is_probing
from editors.model.hooks import Context, setting

_CONTENTS = "_editcli_record"  # the attribute of a cache that holds its `_CacheContents`


@dataclass(frozen=True, slots=True)
class _CacheContents:
    """What a cache holds.

    ``owner``: the id of the tracker. ``call``: the call that it was filled for. ``memories``: by
    row, the memory that answers it. ``ids``: int64 ``[rows, columns]``, None if not known.
    """

    owner: str
    call: Call
    memories: list[int]
    ids: torch.Tensor | None


@dataclass(eq=False, slots=True)
class _Assignment:
    """How the forwards inside a ``with``, in this thread, are assigned to calls.

    ``call``: the call of all forwards, once it is known. ``begin`` makes a call from the ids and
    mask of a forward; without it, the cache tells. If ``lasting``, that call is the call of all
    forwards; else each forward begins a call. ``after_prompts``: forwards hold only what comes
    after the prompts, and repeat all rows of the call in order, rather than each row several times
    before the next. ``prompt_ids``: the prompts given to ``generate``.
    """

    tracker: CallTracker
    call: Call | None = None
    begin: Callable[[torch.Tensor, torch.Tensor | None], Call] | None = None
    lasting: bool = False
    after_prompts: bool = False
    prompt_ids: torch.Tensor | None = None


_assignment: ContextVar[_Assignment | None] = ContextVar("assignment", default=None)
_noted_calls: ContextVar[tuple[list[Call], ...]] = ContextVar("noted_calls", default=())


class CallTracker:
    """Assigns the forwards of a model to calls, and lets a router decide each call."""

    def __init__(self, base: Base, router: Router | None, *, reads_forwards: bool) -> None:
        """``reads_forwards``: the router may read hidden states of the answering forward."""
        self.base, self._router, self._reads_forwards = base, router, reads_forwards
        self._ids_name: str = base.model.main_input_name
        self._owner = token_hex(8)

    # --- for code that runs the model -----------------------------------------------------------

    @contextmanager
    def noting(self) -> Iterator[list[Call]]:
        """A list of the calls that begin inside ``with``, in this thread, in order."""
        calls: list[Call] = []
        with setting(_noted_calls, (*_noted_calls.get(), calls)):
            yield calls

    def scoring(self, prompt_lengths: torch.Tensor) -> Context:
        """Inside ``with``, prompts are the first ``prompt_lengths`` ``[rows]`` real tokens of rows.

        For forwards over prompts with targets, as a target must not take part in the decision.
        """

        def begin(ids: torch.Tensor, mask: torch.Tensor | None) -> Call:
            real = real_tokens(ids, mask)
            return Call.of(ids, real * (real.cumsum(1) <= prompt_lengths.to(ids.device)[:, None]))

        return setting(_assignment, _Assignment(self, begin=begin))

    def continuing(self, call: Call | None) -> Context:
        """Inside ``with``, forwards hold tokens after the prompts of ``call``. All rows of the call
        follow each other, as often as the batch has room for them."""
        return setting(_assignment, _Assignment(self, call, after_prompts=True))

    # --- in place of the methods of the model ---------------------------------------------------

    def generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """``generate``, wrapped so that its forwards belong to one call."""

        @wraps(generate)
        def run(*args: Any, **kwargs: Any) -> Any:
            inputs = kwargs.get(self._ids_name, kwargs.get("inputs", args[0] if args else None))
            prompt_ids = inputs if isinstance(inputs, torch.Tensor) and inputs.ndim == 2 else None

            def begin(ids: torch.Tensor, mask: torch.Tensor | None) -> Call:
                if prompt_ids is None:  # generate makes a prompt itself
                    return Call.of(ids, mask)
                prompt_mask = kwargs.get("attention_mask")
                if prompt_mask is None and (pad := self._pad(kwargs)) is not None:
                    prompt_mask = (prompt_ids != pad).long()
                return Call.of(prompt_ids, prompt_mask)

            assignment = _Assignment(self, begin=begin, lasting=True, prompt_ids=prompt_ids)
            with setting(_assignment, assignment):
                return generate(*args, **kwargs)

        return run

    def _pad(self, arguments: dict[str, Any]) -> int | None:
        """The id that ``generate`` treats as a pad if it gets no mask; None: no id."""
        config = self.base.model.generation_config
        pad: int | None = arguments.get("pad_token_id", config.pad_token_id)
        end_ids = arguments.get("eos_token_id", config.eos_token_id)
        return None if pad in (end_ids if isinstance(end_ids, list) else [end_ids]) else pad

    def tracking(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """``forward``, wrapped so that it is a forward of a call, decided as far as possible."""
        parameters = inspect.signature(forward).parameters

        @wraps(forward)
        def run(*args: Any, **kwargs: Any) -> Any:
            if is_probing():
                return forward(*args, **kwargs)
            arguments = {**dict(zip(parameters, args, strict=False)), **kwargs}
            begun, cached_ids = self._begin(arguments)
            with running(begun):
                output = forward(*args, **kwargs)
            _, cache = _cache_in({**arguments, **(output if isinstance(output, dict) else {})})
            if cache is not None:
                ids = arguments[self._ids_name]
                whole = None if cached_ids is None else torch.cat([cached_ids, ids], 1)
                contents = _CacheContents(self._owner, begun.call, begun.memories(), whole)
                setattr(cache, _CONTENTS, contents)
            return output

        return run

    # --- from forwards to calls -----------------------------------------------------------------

    def _begin(self, arguments: dict[str, Any]) -> tuple[Forward, torch.Tensor | None]:
        """The forward with these arguments, and the ids in its cache, None if not known."""
        ids, mask = arguments.get(self._ids_name), arguments.get("attention_mask")
        if ids is None:
            raise EditorError("prompts are known by their tokens, but only embeddings were given")
        _, cache = _cache_in(arguments)
        past = 0 if cache is None else int(cache.get_seq_length())
        contents: _CacheContents | None = getattr(cache, _CONTENTS, None) if past else None
        cached_ids = ids[:, :0] if not past else None
        if contents is not None and contents.ids is not None:
            cached_ids = contents.ids[:, :past]
        assignment = _assignment.get()
        if assignment is None or assignment.tracker is not self:
            assignment = _Assignment(self)
        call, begins = self._call(ids, mask, contents, cached_ids, assignment)
        rows = len(call.prompts)
        if len(ids) % rows:
            raise EditorError(
                f"{len(ids)} rows were given to a call of {rows} prompts", "start a new generation"
            )
        times = range(len(ids) // rows)
        if assignment.after_prompts:
            call_rows = [row for _ in times for row in range(rows)]
            forward = Forward(call, call_rows, ids.shape[1], int(call.ends.max()))
        else:
            call_rows = [row for row in range(rows) for _ in times]
            forward = Forward(call, call_rows, ids.shape[1], past)
        if not call.decisions:
            self._decide(forward)
        if begins and past:
            if assignment.prompt_ids is not None:
                cached_ids = assignment.prompt_ids[call_rows, :past]
            self._refill(forward, contents, cached_ids, arguments)
        # A beam search may reorder rows.
        return forward, cached_ids if len(ids) == rows else None

    def _call(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        contents: _CacheContents | None,
        cached_ids: torch.Tensor | None,
        assignment: _Assignment,
    ) -> tuple[Call, bool]:
        """The call of a forward, and whether the forward begins it."""
        if assignment.call is not None:
            return assignment.call, False
        if assignment.begin is not None:
            call = assignment.begin(ids, mask)
            assignment.call = call if assignment.lasting else None
        elif contents is not None and contents.owner == self._owner and ids.shape[1] == 1:
            return contents.call, False  # a step of decoding
        else:  # a prompt, whose beginning may be in the cache
            call = Call.of(torch.cat([_known(cached_ids), ids], 1), mask)
        for calls in _noted_calls.get():
            calls.append(call)
        return call, True

    def _decide(self, forward: Forward) -> None:
        """Decide the call of ``forward``, now or once ``forward`` has the hidden states for it."""
        call, router, base = forward.call, self._router or NoClaims(), self.base
        with base.probing():
            proposal = router.propose(call.prompts)

        def decide(states: torch.Tensor | None) -> list[Decision]:
            with base.probing():
                return router.decide(proposal, states)

        if not proposal.candidates:
            call.decisions = proposal.decisions
        elif not (self._reads_forwards and forward.decide_by([*proposal.candidates], decide)):
            call.decisions = decide(None)

    def _refill(
        self,
        forward: Forward,
        contents: _CacheContents | None,
        ids: torch.Tensor | None,
        arguments: dict[str, Any],
    ) -> None:
        """Fill the cache again, with ``ids``, if other decisions held when it was filled."""
        # A cache without contents was filled by the unedited base.
        memories = [-1] * len(forward.call_rows) if contents is None else contents.memories
        same_owner = contents is None or contents.owner == self._owner
        if same_owner and memories == forward.memories():
            return
        name, cache = _cache_in(arguments)
        refill: dict[str, Any] = {self._ids_name: _known(ids), name: cache, "use_cache": True}
        _empty(cache)
        mask = arguments.get("attention_mask")
        if mask is not None and mask.ndim == 2:
            refill["attention_mask"] = mask[:, : forward.past]
        if arguments.get("position_ids") is not None:
            real = real_tokens(_known(ids), refill.get("attention_mask"))
            refill["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
        with setting(_assignment, _Assignment(self, forward.call)):
            self.base.model(**refill)


def _cache_in(values: Mapping[str, Any]) -> tuple[str, Any]:
    """The first cache of ``values``, and its name; None if there is none."""
    return next(((name, v) for name, v in values.items() if isinstance(v, Cache)), ("", None))


def _known(ids: torch.Tensor | None) -> torch.Tensor:
    """``ids`` of a cache; raises EditorError if they are not known."""
    if ids is None:
        raise EditorError(
            "it is not known what tokens this cache holds: it was filled elsewhere",
            "give `generate` the cache together with all tokens, or start with a new cache",
        )
    return ids


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
