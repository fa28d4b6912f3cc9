"""The part of a decoder that an edit can change (the suffix), replayed from recorded states.

Everything up to the edited projection has the same result in every training step, so it runs once
and is recorded. A step runs the change of the projection, the blocks above it, and the vocabulary
projection at the labelled positions. A plain training loop spends about 79 % of its operations on
what is replayed here. Rows are padded on the right and a token sees only earlier tokens, so no
forward needs a mask. Pads are skipped in all blocks except the edited one. In the last block, only
keys and values are computed at unlabelled positions. Both are done only where they are faster.

The forward of the model itself runs the replay, with recorded modules swapped in. So masks,
positions and norms are those of the model. :func:`require_replay` checks that blocks pass nothing
but hidden states to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from editors.errors import UnsupportedArchitecture
from editors.inference.hidden_states import StateRequest
from editors.inference.token_subset import TokenSubset, max_wasted_on, on, tokenwise_modules
from editors.methods.training.records import Record, stacked
from editors.methods.training.state_offload import OffloadedTensors, StateOffload
from editors.model.base_model import Base
from editors.model.hooks import (
    InputReader,
    OutputReader,
    StandIn,
    changing_input,
    hidden_of,
    reading_inputs,
    reading_outputs,
    stop_forward,
    stopping_early,
    swapped,
)
from editors.model.tokenization import Batch, TokenIndex, encode_pairs
from editors.scope.unrelated_prompts import UNRELATED

# Batches share a recording forward if together they have at most this many tokens, pads included.
SHARED_TOKENS = {"cpu": 0}
SHARED_TOKENS_ELSEWHERE = 4096
REPLAY_TOLERANCE = 0.02  # the relative difference allowed between logits of replay and model


@dataclass(frozen=True, slots=True)
class _Form:
    """The form of the outputs of the edited block.

    ``tuple_sizes``: by path, the length of the tuple that the block or a module of it returns, 0
    for a tensor. ``flat``: the output of the projection has two axes, as some blocks flatten the
    input of their MLP. ``replayed``: the path of the MLP if it returns the output of the
    projection, so that all of it can be skipped, else of the projection.
    """

    tuple_sizes: Mapping[str, int]
    flat: bool
    replayed: str


class _Capture:
    """Keeps inputs and outputs of the modules of the edited block, and ends the forward after
    it."""

    def __init__(self, base: Base) -> None:
        self.states: dict[str, torch.Tensor] = {}
        self._tuple_sizes: dict[str, int] = {}
        block, self._projection = base.architecture.block(base.layer), base.projection.path
        self._mlp = self._projection.rpartition(".")[0]
        self.inputs = {
            self._projection: self._reader_of_input("inputs"),
            block.path: self._reader_of_input("hidden"),
        }
        kept = {self._mlp: "mlp_out", self._projection: "projected"}
        if block.attention is not None:
            kept[block.attention] = "attention"
        # The block comes last, as it may be what holds the projection, in the place of an MLP.
        self.outputs = {path: self._reader_of_output(path, kept[path]) for path in kept} | {
            block.path: self._reader_of_output(block.path, None)
        }

    def recorded(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``[rows, seq, size]``: the states of the last forward, over ``batch``, to be recorded."""
        states = {name: state for name, state in self.states.items() if name != "mlp_out"}
        return {name: state.view(*batch.ids.shape, -1) for name, state in states.items()}

    def form(self) -> _Form:
        """The form of the block's outputs, from the last forward."""
        projected, mlp_out = self.states["projected"], self.states.get("mlp_out")
        whole_mlp = mlp_out is not None and torch.equal(mlp_out, projected)
        replayed = self._mlp if whole_mlp else self._projection
        return _Form(self._tuple_sizes, projected.ndim == 2, replayed)

    def _reader_of_input(self, name: str) -> InputReader:
        def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.states[name] = (args[0] if args else kwargs["hidden_states"]).detach()

        return read

    def _reader_of_output(self, path: str, name: str | None) -> OutputReader:
        def read(output: Any) -> None:
            self._tuple_sizes[path] = len(output) if isinstance(output, tuple) else 0
            if name is None:
                stop_forward()
            else:
                # A copy, as some blocks add to the output of their MLP in place.
                self.states[name] = hidden_of(output).detach().clone()

        return read


class _Replay(StandIn):
    """Returns ``value`` of the hidden states it is called with, in the form of the original's
    output."""

    def __init__(self, original: nn.Module, value: Any, tuple_size: int) -> None:
        super().__init__(original)
        self._value, self._tuple_size = value, tuple_size

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        value = self._value(args[0] if args else kwargs.get("hidden_states"))
        return value if self._tuple_size == 0 else (value, *[None] * (self._tuple_size - 1))


def record_states(
    base: Base,
    batches: Sequence[Batch],
    offload: StateOffload | None = None,
    *,
    request: StateRequest | None = None,
    max_wasted: int | None = None,
) -> SuffixReplay:
    """Run each batch, padded on the right, up to the edited block, and record what the suffix
    needs.

    ``offload``: keeps the states; by default all of them stay in memory. ``request``: states that
    are read in the last forward if it has room and they lie below the edited block. ``max_wasted``:
    up to this many pads are run rather than skipped, with a default for the device of the batches.

    Raises:
        UnsupportedArchitecture: the block has no projection to edit.
    """
    wasted = max_wasted_on(base.input_device) if max_wasted is None else max_wasted
    shared_tokens = SHARED_TOKENS.get(base.input_device.type, SHARED_TOKENS_ELSEWHERE)
    groups = _neighbours(batches, shared_tokens)
    forwards = [stacked(group) for group in groups]
    readings: list[AbstractContextManager[None]] = [nullcontext()] * len(groups)
    if request is not None and request.layers[-1] < base.layer:
        appended = request.rows_to_append(forwards[-1], shared_tokens)
        if appended is not None:
            readings[-1] = request.reading(appended, len(forwards[-1].ids))
            forwards[-1] = stacked([forwards[-1], appended])
    capture, offload = _Capture(base), offload or StateOffload()
    real_tokens: TokenIndex = ()  # of the running batch
    pads = max(int((batch.mask == 0).sum()) for batch in forwards)
    without_pads = {
        path: TokenSubset(base.model.get_submodule(path), lambda: real_tokens, wasted)
        for below in (base.architecture.blocks[: base.layer] if pads > wasted else ())
        for path in tokenwise_modules(base.model, below)
    }
    records: list[Record] = []
    with (
        torch.no_grad(),
        swapped(base.model, without_pads),
        reading_inputs(base.model, capture.inputs),
        reading_outputs(base.model, capture.outputs),
    ):
        for group, batch, reading in zip(groups, forwards, readings, strict=True):
            real_tokens = batch.mask.nonzero(as_tuple=True)
            with reading, stopping_early():
                base.model(input_ids=batch.ids, use_cache=False)
            # Not bound to a name, so that states on the device are freed before the next forward.
            records += _split(
                Record.of(batch, OffloadedTensors.of(capture.recorded(batch))),
                [len(member.ids) for member in group],
                offload,
            )
    return SuffixReplay(base, records, capture.form(), wasted)


class SuffixReplay:
    """The forward from the edited projection to the logits at labelled positions.

    Made by :func:`record_states`. ``records``: one for each batch. ``logits`` may be called only
    inside ``with suffix.replaying():``.
    """

    def __init__(self, base: Base, records: Sequence[Record], form: _Form, max_wasted: int) -> None:
        self._base, self.records, self._form, self._max_wasted = base, records, form, max_wasted
        self._active: Any = None  # the record of the running forward, and its side
        self._side: Any = None

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Inside ``with``, recorded states replace the modules below the suffix."""
        model, blocks, layer = self._base.model, self._base.architecture.blocks, self._base.layer
        block, sizes = blocks[layer], self._form.tuple_sizes
        modules: dict[str, nn.Module] = {}

        def replay(path: str, value: Any, tuple_size: int) -> None:
            modules[path] = _Replay(model.get_submodule(path), value, tuple_size)

        for below in blocks[:layer]:
            # The first block returns the input of the edited block; the others pass it on.
            value = self._state("hidden") if below.index == 0 else lambda hidden: hidden
            replay(below.path, value, sizes[block.path])
        if block.attention is not None:
            replay(block.attention, self._state("attention"), sizes[block.attention])
        replay(self._form.replayed, self._projected, sizes[self._form.replayed])
        labelled, real = (lambda: self._active.labelled), (lambda: self._active.real)
        for above in blocks[layer + 1 :]:
            is_last = above.index == len(blocks) - 1
            for path, used_alone in tokenwise_modules(model, above).items():
                # After the last block, only the labelled tokens are used.
                index = labelled if is_last and used_alone else real
                module = model.get_submodule(path)
                modules[path] = TokenSubset(module, index, self._max_wasted)
        with ExitStack() as stack:
            stack.enter_context(swapped(model, modules))
            stack.enter_context(changing_input(model.get_output_embeddings(), self._before_labels))
            # On a CPU, the backward pass of the fused kernel is many times slower than this one.
            if self._base.input_device.type == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def logits(self, record: Record, side: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits ``[labels, vocab]`` and labels, int64 ``[labels]``, of a record.

        ``record``: one of ``records``, or rows of them. ``side``: ``[rows, seq, out]``, added to
        the output of the projection; gradients flow to it. Labels are ordered by row, then by
        position.
        """
        self._active, self._side = record, side
        try:
            out = self._base.model(input_ids=record.batch.ids, use_cache=False)
            return out.logits[0], record.labels.to(out.logits.device)
        finally:
            self._active = self._side = None

    def _state(self, name: str) -> Callable[[Any], torch.Tensor]:
        return lambda _: self._active.states[name]

    def _projected(self, _: Any) -> torch.Tensor:
        output: torch.Tensor = self._active.states["projected"] + self._side
        return output.flatten(0, 1) if self._form.flat else output

    def _before_labels(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[rows, seq, hidden]`` -> ``[1, labels, hidden]``: the states before each label."""
        return hidden[on(hidden.device, self._active.labelled)][None]


def require_replay(base: Base) -> None:
    """Check that replaying two texts without a change gives the logits of the model.

    Raises:
        UnsupportedArchitecture: the logits differ, or the replay fails, as blocks pass more than
            hidden states to each other.
    """
    pairs = [(text, "yes") for text in UNRELATED[:2]]
    batch = base.batch(encode_pairs(base.tokenizer, pairs, stop=True))
    with torch.no_grad():
        expected = base.model(input_ids=batch.ids, use_cache=False).logits
    problem: Exception | None = None
    try:
        suffix = record_states(base, [batch], max_wasted=0)
        [recorded] = suffix.records
        unchanged = recorded.inputs.new_zeros(*batch.ids.shape, base.projection.out_features)
        with torch.no_grad(), suffix.replaying():
            replayed, _ = suffix.logits(recorded, unchanged)
        labelled = expected[on(expected.device, recorded.labelled)]
        same = bool((replayed - labelled).norm() <= REPLAY_TOLERANCE * labelled.norm())
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        same, problem = False, error
    if not same:
        raise UnsupportedArchitecture(
            "the blocks of this model pass more than hidden states to each other, so edits cannot "
            "be trained from recorded states",
            "try another `--layer`, above the blocks that share",
        ) from problem


def _neighbours(batches: Sequence[Batch], max_tokens: int) -> list[list[Batch]]:
    """Groups of neighbouring batches, each of at most ``max_tokens`` tokens, pads included. A
    larger batch is a group by itself."""
    groups: list[list[Batch]] = []
    for batch in batches:
        joined = [*(groups[-1] if groups else ()), batch]
        longest = max(member.ids.shape[1] for member in joined)
        if groups and longest * sum(len(member.ids) for member in joined) <= max_tokens:
            groups[-1] = joined
        else:
            groups.append([batch])
    return groups


def _split(record: Record, row_counts: Sequence[int], offload: StateOffload) -> list[Record]:
    """``record`` cut into records of ``row_counts`` rows each, with states kept by ``offload``."""
    starts = [0, *accumulate(row_counts)]
    cut = (record.of_rows(range(*between)) for between in pairwise(starts))
    return [replace(part, states=offload.keep(part.states)) for part in cut]
