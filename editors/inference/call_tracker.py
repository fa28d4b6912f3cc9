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
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from secrets import token_hex
from typing import Any

import torch
from transformers import Cache

from editors.errors import EditorError
from editors.inference.calls import Call, Forward, real_tokens, running
from editors.inference.decisions import Decision, NoClaims, Router
from editors.model.base_model import Base, is_probing
from editors.model.hooks import Within, setting

CANNOT_TELL = "so they cannot be told apart"
BATCH_INSTEAD = "`generate` answers a padded batch of prompts; `editcli serve` makes batches itself"
_JOINED = "cu_seq_lens_q"  # an argument of forwards whose rows hold several prompts
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

    ``call``: the call of all forwards; without it, each forward or its cache tells the call. If
    ``lasting``, the first such call is the call of all forwards. ``prompt_lengths``: int64
    ``[rows]``, the real tokens of each row that are the prompt; None: all. ``after_prompts``:
    forwards hold only what comes after the prompts, and repeat all rows of the call in order,
    rather than each row several times before the next. ``prompt_ids``: the prompts given to
    ``generate``.
    """

    tracker: CallTracker
    call: Call | None = None
    lasting: bool = False
    prompt_lengths: torch.Tensor | None = None
    after_prompts: bool = False
    prompt_ids: torch.Tensor | None = None

    def begin(self, ids: torch.Tensor, mask: torch.Tensor | None) -> Call:
        """The call of ``ids`` ``[rows, columns]``, the first tokens of its prompts included."""
        if self.prompt_lengths is not None:
            real = real_tokens(ids, mask)
            mask = real * (real.cumsum(1) <= self.prompt_lengths.to(ids.device)[:, None])
        call = Call.of(ids, mask)
        self.call = call if self.lasting else None
        return call


_assignment: ContextVar[_Assignment | None] = ContextVar("assignment", default=None)
_noted_calls: ContextVar[tuple[list[Call], ...]] = ContextVar("noted_calls", default=())


@dataclass(eq=False)
class CallTracker:
    """Assigns the forwards of a model to calls, and lets a router decide each call.

    ``router``: None leaves all prompts to the base. ``reads_forwards``: the router may read hidden
    states of the answering forward.
    """

    base: Base
    router: Router | None = None
    reads_forwards: bool = False
    _owner: str = field(default_factory=lambda: token_hex(8), init=False)

    # --- for code that runs the model -----------------------------------------------------------

    @contextmanager
    def noting(self) -> Iterator[list[Call]]:
        """A list of the calls that begin inside ``with``, in this thread, in order."""
        calls: list[Call] = []
        with setting(_noted_calls, (*_noted_calls.get(), calls)):
            yield calls

    def scoring(self, prompt_lengths: torch.Tensor) -> Within:
        """Inside ``with``, prompts are the first ``prompt_lengths`` ``[rows]`` real tokens of rows.

        For forwards over prompts with targets, as a target must not take part in the decision.
        """
        return setting(_assignment, _Assignment(self, prompt_lengths=prompt_lengths))

    def continuing(self, call: Call | None) -> Within:
        """Inside ``with``, forwards hold tokens after the prompts of ``call``. All rows of the call
        follow each other, as often as the batch has room for them."""
        return setting(_assignment, _Assignment(self, call, after_prompts=True))

    # --- in place of the methods of the model ---------------------------------------------------

    def generating(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """``generate``, wrapped so that its forwards belong to one call."""

        @wraps(generate)
        def run(*args: Any, **kwargs: Any) -> Any:
            ids = kwargs.get("inputs", args[0] if args else None)
            ids = kwargs.get(self.base.model.main_input_name, ids)
            if isinstance(ids, torch.Tensor) and ids.ndim == 2:
                mask = kwargs.get("attention_mask")
                if mask is None and (pad := self._pad(kwargs)) is not None:
                    mask = (ids != pad).long()
                assignment = _Assignment(self, Call.of(ids, mask), prompt_ids=ids)
            else:  # generate makes a prompt itself
                assignment = _Assignment(self, lasting=True)
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
            begun, ids_after = self._begin(arguments)
            with running(begun):
                output = forward(*args, **kwargs)
            _, cache = _cache_in({**arguments, **(output if isinstance(output, dict) else {})})
            if cache is not None:
                contents = _CacheContents(self._owner, begun.call, begun.memories(), ids_after)
                setattr(cache, _CONTENTS, contents)
            return output

        return run

    # --- from forwards to calls -----------------------------------------------------------------

    def _begin(self, arguments: dict[str, Any]) -> tuple[Forward, torch.Tensor | None]:
        """The forward with these arguments, and the ids that its cache holds after it, None if not
        known."""
        ids = arguments.get(self.base.model.main_input_name)
        if ids is None:
            raise EditorError("prompts are known by their tokens, but only embeddings were given")
        if arguments.get(_JOINED) is not None:
            raise EditorError(f"prompts are joined to one row, {CANNOT_TELL}", BATCH_INSTEAD)
        _, cache = _cache_in(arguments)
        past = 0 if cache is None else int(cache.get_seq_length())
        contents: _CacheContents | None = getattr(cache, _CONTENTS, None) if past else None
        cached_ids = ids[:, :0] if not past else None
        if contents is not None and contents.ids is not None:
            cached_ids = contents.ids[:, :past]
        assignment = _assignment.get()
        if assignment is None or assignment.tracker is not self:
            assignment = _Assignment(self)
        if assignment.call is not None:
            call = assignment.call
        elif contents and contents.owner == self._owner and ids.shape[1] == 1:
            call = contents.call  # a step of decoding
        else:  # a prompt, whose beginning may be in the cache
            whole = torch.cat([_known(cached_ids), ids], 1)
            call = assignment.begin(whole, arguments.get("attention_mask"))
        rows = len(call.prompts)
        if len(ids) % rows:
            raise EditorError(
                f"{len(ids)} rows were given to a call of {rows} prompts", "start a new generation"
            )
        times, before = len(ids) // rows, past
        call_rows = [row for row in range(rows) for _ in range(times)]
        if assignment.after_prompts:
            call_rows, before = [*range(rows)] * times, int(call.ends.max())
        forward = Forward(call, call_rows, ids.shape[1], before)
        if not call.decisions:  # the call begins
            for calls in _noted_calls.get():
                calls.append(call)
            self._decide(forward, arguments.get("position_ids"))
            if past:
                if assignment.prompt_ids is not None:
                    cached_ids = assignment.prompt_ids[call_rows, :past]
                # A cache without contents was filled by the unedited base.
                held = (self._owner, [-1] * len(ids))
                if contents is not None:
                    held = (contents.owner, contents.memories)
                if held != (self._owner, forward.memories()):
                    self._refill(forward, _known(cached_ids), arguments)
        if cached_ids is None or len(ids) != rows:  # a beam search may reorder rows
            return forward, None
        return forward, torch.cat([cached_ids, ids], 1)

    def _decide(self, forward: Forward, positions: torch.Tensor | None) -> None:
        """Decide the call of ``forward``, now or once ``forward`` has the hidden states for it.
        ``positions``: those that the model is told."""
        call, router, base = forward.call, self.router or NoClaims(), self.base
        with base.probing():
            proposal = router.propose(call.prompts)

        def decide(states: torch.Tensor | None) -> list[Decision]:
            with base.probing():
                return router.decide(proposal, states)

        if not proposal.candidates:
            call.decisions = proposal.decisions
        elif not (
            self.reads_forwards and forward.decide_by([*proposal.candidates], decide, positions)
        ):
            call.decisions = decide(None)

    def _refill(self, forward: Forward, ids: torch.Tensor, arguments: dict[str, Any]) -> None:
        """Fill the cache, which was filled under other decisions, again with ``ids``."""
        name, cache = _cache_in(arguments)
        refill = {self.base.model.main_input_name: ids, name: cache, "use_cache": True}
        _empty(cache)
        mask = arguments.get("attention_mask")
        if mask is not None and mask.ndim == 2:
            refill["attention_mask"] = mask[:, : forward.past]
        if arguments.get("position_ids") is not None:
            real = real_tokens(ids, refill.get("attention_mask"))
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
    with suppress(AttributeError, NotImplementedError, ValueError):
        if length := int(cache.get_seq_length()):
            cache.crop(-length)
    if int(cache.get_seq_length()):
        raise EditorError(
            f"a {type(cache).__name__} that was filled under another decision cannot be emptied",
            "start with a new cache",
        )
