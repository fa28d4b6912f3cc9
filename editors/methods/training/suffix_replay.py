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

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from editors.errors import UnsupportedArchitecture
from editors.inference.hidden_states import StateRequest
from editors.inference.token_subset import (
    TokenSubset,
    max_wasted_on,
    on,
    tokenwise_modules,
)
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
from editors.model.tokenization import Batch, TokenIndex

# Batches share a recording forward if together they have at most this many tokens, pads included.
SHARED_TOKENS = {"cpu": 0}
SHARED_TOKENS_ELSEWHERE = 4096
REPLAY_TOLERANCE = 0.02  # the relative difference allowed between logits of replay and model


@dataclass(frozen=True, slots=True)
class _Shapes:
    """The form of the outputs of the modules of the edited block.

    ``block``, ``attention``, ``mlp``: the length of the tuple that each returns, 0 for a tensor.
    ``flat``: the recorded states with two axes, as some blocks flatten the input of their MLP.
    ``whole_mlp``: the MLP returns the output of the projection, so all of it can be skipped.
    ``max_wasted``: up to this many pads are run rather than skipped.
    """

    block: int
    attention: int
    mlp: int
    flat: frozenset[str]
    whole_mlp: bool
    max_wasted: int


class _Capture:
    """Keeps inputs and outputs of the modules of the edited block, and ends the forward after
    it."""

    def __init__(self, base: Base) -> None:
        self.block = base.architecture.block(base.layer)
        self.projection = base.projection
        self.mlp = self.projection.path.rpartition(".")[0]
        self.states: dict[str, torch.Tensor] = {}
        self._tuples: dict[str, int] = {}
        self._mlp_arguments = 0

    def readers(self) -> tuple[dict[str, InputReader], dict[str, OutputReader]]:
        """Readers of inputs and of outputs, by path. The reader of the block's output ends the
        forward."""
        inputs = {
            self.projection.path: self._input("inputs"),
            self.block.path: self._input("hidden"),
        }
        outputs = {self.projection.path: self._output("projected")}
        if self.block.attention is not None:
            outputs[self.block.attention] = self._output("attention")
        if self.mlp != self.block.path:
            inputs[self.mlp] = self._input("mlp_in")
            outputs[self.mlp] = self._output("mlp_out")
        outputs[self.block.path] = self._block_output
        return inputs, outputs

    def recorded(self) -> tuple[str, ...]:
        """The names of the states that a record keeps."""
        attention = () if self.block.attention is None else ("attention",)
        return ("inputs", "projected", "hidden", *attention)

    def shapes(self, max_wasted: int) -> _Shapes:
        """The form of the block's outputs, from the last forward."""
        whole_mlp = (
            self.mlp != self.block.path
            and self._mlp_arguments == 1
            and torch.equal(self.states["mlp_out"], self.states["projected"])
        )
        return _Shapes(
            self._tuples["block"],
            self._tuples.get("attention", 0),
            self._tuples.get("mlp_out", 0),
            frozenset(name for name in self.recorded() if self.states[name].ndim == 2),
            whole_mlp,
            max_wasted,
        )

    def _input(self, name: str) -> InputReader:
        def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.states[name] = (args[0] if args else kwargs["hidden_states"]).detach()
            if name == "mlp_in":
                self._mlp_arguments = len(args) + len(kwargs)

        return read

    def _output(self, name: str) -> OutputReader:
        def read(output: Any) -> None:
            # A copy, as some blocks add to the output of their MLP in place.
            self.states[name] = hidden_of(output).detach().clone()
            self._tuples[name] = len(output) if isinstance(output, tuple) else 0

        return read

    def _block_output(self, output: Any) -> None:
        self._tuples["block"] = len(output) if isinstance(output, tuple) else 0
        stop_forward()


class _Replay(StandIn):
    """Returns ``value`` of the hidden states it is called with, in the form of the original's
    output."""

    def __init__(self, original: nn.Module, value: Any, tuple_size: int) -> None:
        super().__init__(original)
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_tuple_size", tuple_size)

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
    shared_tokens: int | None = None,
) -> SuffixReplay:
    """Run each batch, padded on the right, up to the edited block, and record what the suffix
    needs.

    ``offload``: keeps the states; by default all of them stay in memory. ``request``: states that
    are read in the last forward if it has room and they lie below the edited block. ``max_wasted``:
    up to this many pads are run rather than skipped. ``shared_tokens``: neighbouring batches run
    together up to this many tokens. Both have a default for the device of the batches.

    Raises:
        UnsupportedArchitecture: the block has no projection to edit.
    """
    if not batches:
        return SuffixReplay(base, [], None)
    device = batches[0].ids.device
    wasted = max_wasted_on(device) if max_wasted is None else max_wasted
    if shared_tokens is None:
        shared_tokens = SHARED_TOKENS.get(device.type, SHARED_TOKENS_ELSEWHERE)
    groups = _neighbours(batches, shared_tokens)
    forwards = [stacked(group) for group in groups]
    readings: list[AbstractContextManager[None]] = [nullcontext() for _ in groups]
    if request is not None and request.layers[-1] < base.layer:
        appended = request.rows_to_append(forwards[-1], shared_tokens)
        if appended is not None:
            readings[-1] = request.reading(appended, len(forwards[-1].ids))
            forwards[-1] = stacked([forwards[-1], appended])
    capture, offload = _Capture(base), offload or StateOffload()
    inputs, outputs = capture.readers()
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
        reading_inputs(base.model, inputs),
        reading_outputs(base.model, outputs),
    ):
        for group, batch, reading in zip(groups, forwards, readings, strict=True):
            real_tokens = batch.mask.nonzero(as_tuple=True)
            with reading, stopping_early():
                base.model(input_ids=batch.ids, use_cache=False)
            # Not bound to a name, so that states on the device are freed before the next forward.
            records += _split(
                Record.of(
                    batch,
                    OffloadedTensors.of(
                        {
                            name: capture.states[name].view(*batch.ids.shape, -1)
                            for name in capture.recorded()
                        }
                    ),
                ),
                [len(member.ids) for member in group],
                offload,
            )
    return SuffixReplay(base, records, capture.shapes(wasted))


class SuffixReplay:
    """The forward from the edited projection to the logits at labelled positions.

    Made by :func:`record_states`. ``records``: one for each batch. ``logits`` may be called only
    inside ``with suffix.replaying():``.
    """

    def __init__(self, base: Base, records: Sequence[Record], shapes: _Shapes | None) -> None:
        """``shapes``: None if nothing was recorded."""
        self._base, self.records, self._shapes = base, records, shapes
        self._active: Record | None = None
        self._side: torch.Tensor | None = None

    def with_records(self, records: Sequence[Record]) -> SuffixReplay:
        """The suffix with other records, of the same model and block."""
        return SuffixReplay(self._base, records, self._shapes)

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Inside ``with``, recorded states replace the modules below the suffix."""
        if not self.records:
            yield
            return
        model, shapes = self._base.model, self._shapes
        assert shapes is not None
        blocks, block = (
            self._base.architecture.blocks,
            self._base.architecture.block(self._base.layer),
        )
        modules: dict[str, nn.Module] = {}

        def replay(path: str, value: Any, tuple_size: int) -> None:
            modules[path] = _Replay(model.get_submodule(path), value, tuple_size)

        for below in blocks[: self._base.layer]:
            # The first block returns the input of the edited block; the others pass it on.
            is_first = below.index == 0
            replay(below.path, self._hidden if is_first else (lambda hidden: hidden), shapes.block)
        if block.attention is not None:
            replay(block.attention, lambda _: self._state("attention"), shapes.attention)
        projection = self._base.projection.path
        if shapes.whole_mlp:
            replay(projection.rpartition(".")[0], self._projected, shapes.mlp)
        else:
            replay(projection, self._projected, 0)
        for above in blocks[self._base.layer + 1 :]:
            is_last = above.index == len(blocks) - 1
            for path, used_alone in tokenwise_modules(model, above).items():
                # After the last block, only the labelled tokens are used.
                index = self._labelled if is_last and used_alone else self._real
                module = model.get_submodule(path)
                modules[path] = TokenSubset(module, index, shapes.max_wasted)
        with ExitStack() as stack:
            stack.enter_context(swapped(model, modules))
            stack.enter_context(changing_input(model.get_output_embeddings(), self._before_labels))
            # On a CPU, the backward pass of the fused kernel is many times slower than this one.
            if self.records[0].batch.ids.device.type == "cpu":
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

    def _active_record(self) -> Record:
        assert self._active is not None, "logits() runs only inside replaying()"
        return self._active

    def _state(self, name: str) -> torch.Tensor:
        assert self._shapes is not None
        state = self._active_record().states[name]
        return state.flatten(0, 1) if name in self._shapes.flat else state

    def _hidden(self, _: Any) -> torch.Tensor:
        return self._state("hidden")

    def _projected(self, _: Any) -> torch.Tensor:
        assert self._side is not None
        main = self._state("projected")
        return main + self._side.reshape(main.shape)

    def _before_labels(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[rows, seq, hidden]`` -> ``[1, labels, hidden]``: the states before each label."""
        if self._active is None:
            return hidden
        return hidden[on(hidden.device, self._active.labelled)][None]

    def _labelled(self) -> TokenIndex:
        return self._active_record().labelled

    def _real(self) -> TokenIndex:
        return self._active_record().real


def require_replay(base: Base, batch: Batch) -> None:
    """Check that replaying ``batch`` without a change gives the logits of the model.

    Raises:
        UnsupportedArchitecture: the logits differ, or the replay fails, as blocks pass more than
            hidden states to each other.
    """
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
            "the blocks of this model hand each other more than hidden states, so an edit cannot "
            "be trained from recorded ones",
            "another `--layer` may do, above the blocks that share",
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
