"""The part of a decoder that an edit can change, replayed from recorded activations.

Everything up to the edited projection gives the same result in every training step, so it runs once
and is recorded. A step runs the change of the projection, the blocks above it, and the vocabulary
projection at the labelled positions; a plain loop spends about 79 % of its operations on what is
replayed here. Rows are padded behind and a token sees only what is before it, so no forward needs a
mask. Outside the edited block, padding is skipped; in the last block everything but keys and values
is computed at labelled positions only, when that is faster.

The model's own forward does the replaying, with recorded modules swapped in, so masks, positions
and norms are the model's own. :func:`require_replay` checks that blocks hand on nothing else.
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

# Tokens, with pads, up to which batches share the forward that records them.
SHARED_TOKENS = {"cpu": 0}
SHARED_TOKENS_ELSEWHERE = 4096
REPLAY_TOLERANCE = 0.02  # of logits, relative: what a replay may differ by from the model itself


@dataclass(frozen=True, slots=True)
class _Shapes:
    """How the modules of the edited block hand on what they make.

    ``block``, ``attention``, ``mlp``: the length of the tuple that each gives, 0 for a tensor.
    ``flat``: the recorded states that have two axes, as some blocks flatten what their MLP reads.
    ``whole_mlp``: the MLP gives what the projection gives, so all of it may be skipped.
    ``max_wasted``: so many pads are run, not skipped.
    """

    block: int
    attention: int
    mlp: int
    flat: frozenset[str]
    whole_mlp: bool
    max_wasted: int


class _Capture:
    """Keeps what the modules of the edited block read and give, and ends the forward after it."""

    def __init__(self, base: Base) -> None:
        self.block = base.architecture.block(base.layer)
        self.projection = base.projection
        self.mlp = self.projection.path.rpartition(".")[0]
        self.states: dict[str, torch.Tensor] = {}
        self._tuples: dict[str, int] = {}
        self._mlp_arguments = 0

    def readers(self) -> tuple[dict[str, InputReader], dict[str, OutputReader]]:
        """What reads the inputs and the outputs of modules; that of the block comes last."""
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
        outputs[self.block.path] = self._last
        return inputs, outputs

    def recorded(self) -> tuple[str, ...]:
        """The names of the states that a record keeps."""
        attention = () if self.block.attention is None else ("attention",)
        return ("inputs", "projected", "hidden", *attention)

    def shapes(self, max_wasted: int) -> _Shapes:
        """How the block hands on what it makes, seen in the last forward."""
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
            # A copy: some blocks go on to add to what their MLP gave, in its place.
            self.states[name] = hidden_of(output).detach().clone()
            self._tuples[name] = len(output) if isinstance(output, tuple) else 0

        return read

    def _last(self, output: Any) -> None:
        self._tuples["block"] = len(output) if isinstance(output, tuple) else 0
        stop_forward()


class _Replay(StandIn):
    """Gives what ``value`` gives, shaped like the module's own output."""

    def __init__(self, original: nn.Module, value: Any, tuple_size: int) -> None:
        super().__init__(original)
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_tuple_size", tuple_size)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        value = self._value(args[0] if args else kwargs.get("hidden_states"))
        return value if self._tuple_size == 0 else (value, *[None] * (self._tuple_size - 1))


def record(
    base: Base,
    batches: Sequence[Batch],
    offload: StateOffload | None = None,
    *,
    request: StateRequest | None = None,
    max_wasted: int | None = None,
    shared_tokens: int | None = None,
) -> SuffixReplay:
    """Run each right-padded batch up to the edited block and keep what the suffix needs.

    ``offload``: where it is kept; by default all of it in memory. ``request``: states that the last
    forward takes along, where there is room and they are read below the block. ``max_wasted``: so
    many pads are run, not skipped; ``shared_tokens``: neighbouring batches run together up to so
    many tokens; both by default as pays on the device of the batches.

    Raises:
        UnsupportedArchitecture: the block has no projection to edit.
    """
    if not batches:
        return SuffixReplay(base, [], None)
    device = batches[0].ids.device
    wasted = max_wasted_on(device) if max_wasted is None else max_wasted
    if shared_tokens is None:
        shared_tokens = SHARED_TOKENS.get(device.type, SHARED_TOKENS_ELSEWHERE)
    parts = _neighbours(batches, shared_tokens)
    forwards = [stacked(part) for part in parts]
    readings: list[AbstractContextManager[None]] = [nullcontext() for _ in parts]
    if request is not None and request.layers[-1] < base.layer:
        appended = request.rows_to_append(forwards[-1], shared_tokens)
        if appended is not None:
            readings[-1] = request.reading(appended, len(forwards[-1].ids))
            forwards[-1] = stacked([forwards[-1], appended])
    capture, offload = _Capture(base), offload or StateOffload()
    inputs, outputs = capture.readers()
    real: TokenIndex = ()  # of the batch that runs
    pads = max(int((batch.mask == 0).sum()) for batch in forwards)
    without_pads = {
        path: TokenSubset(base.model.get_submodule(path), lambda: real, wasted)
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
        for part, batch, reading in zip(parts, forwards, readings, strict=True):
            real = batch.mask.nonzero(as_tuple=True)
            with reading, stopping_early():
                base.model(input_ids=batch.ids, use_cache=False)
            # Bound to no name: what is put away would lie beside the states of the next forward.
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
                [len(one.ids) for one in part],
                offload,
            )
    return SuffixReplay(base, records, capture.shapes(wasted))


class SuffixReplay:
    """The forward from the edited projection to the logits of labelled positions.

    Made by :func:`record`; ``records``: what it kept of each batch. ``logits`` may be called only
    inside ``with suffix.replaying():``.
    """

    def __init__(self, base: Base, records: Sequence[Record], shapes: _Shapes | None) -> None:
        """``shapes``: None where nothing was recorded."""
        self._base, self.records, self._shapes = base, records, shapes
        self._active: Record | None = None
        self._side: torch.Tensor | None = None

    def with_records(self, records: Sequence[Record]) -> SuffixReplay:
        """The same with these records, which were made of the same model and block."""
        return SuffixReplay(self._base, records, self._shapes)

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Swap the recorded modules in; the model is itself again on leaving."""
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
            # The first block hands out what the edited block read; the others pass it on.
            first = below.index == 0
            replay(below.path, self._hidden if first else (lambda given: given), shapes.block)
        if block.attention is not None:
            replay(block.attention, lambda _: self._state("attention"), shapes.attention)
        projection = self._base.projection.path
        if shapes.whole_mlp:
            replay(projection.rpartition(".")[0], self._projected, shapes.mlp)
        else:
            replay(projection, self._projected, 0)
        for above in blocks[self._base.layer + 1 :]:
            last = above.index == len(blocks) - 1
            for path, alone in tokenwise_modules(model, above).items():
                # After the last block, nothing looks at other tokens than the labelled ones.
                index = self._labelled if last and alone else self._real
                module = model.get_submodule(path)
                modules[path] = TokenSubset(module, index, shapes.max_wasted)
        with ExitStack() as stack:
            stack.enter_context(swapped(model, modules))
            stack.enter_context(changing_input(model.get_output_embeddings(), self._before_labels))
            # The fused CPU kernel's backward is many times slower than plain products.
            if self.records[0].batch.ids.device.type == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def logits(self, record: Record, side: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[labels, vocab]`` and labels ``[labels]`` of a record, or of rows of one.

        ``side``: ``[rows, seq, out]``, added to what the projection gives; gradients flow to it.
        Rows are in batch order, positions in text order.
        """
        self._active, self._side = record, side
        try:
            out = self._base.model(input_ids=record.batch.ids, use_cache=False)
            return out.logits[0], record.labels.to(out.logits.device)
        finally:
            self._active = self._side = None

    def _now(self) -> Record:
        assert self._active is not None, "logits() runs only inside replaying()"
        return self._active

    def _state(self, name: str) -> torch.Tensor:
        assert self._shapes is not None
        state = self._now().states[name]
        return state.flatten(0, 1) if name in self._shapes.flat else state

    def _hidden(self, _: Any) -> torch.Tensor:
        return self._state("hidden")

    def _projected(self, _: Any) -> torch.Tensor:
        assert self._side is not None
        main = self._state("projected")
        return main + self._side.reshape(main.shape)

    def _before_labels(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[rows, seq, hidden]`` -> ``[1, labels, hidden]``: the positions before a label."""
        if self._active is None:
            return hidden
        return hidden[on(hidden.device, self._active.labelled)][None]

    def _labelled(self) -> TokenIndex:
        return self._now().labelled

    def _real(self) -> TokenIndex:
        return self._now().real


def require_replay(base: Base, batch: Batch) -> None:
    """Check that, without a change, the recorded suffix gives ``batch`` the model's own logits.

    Raises:
        UnsupportedArchitecture: it does not: blocks hand each other more than hidden states.
    """
    with torch.no_grad():
        whole = base.model(input_ids=batch.ids, use_cache=False).logits
    problem: Exception | None = None
    try:
        suffix = record(base, [batch], max_wasted=0)
        [recorded] = suffix.records
        unchanged = recorded.inputs.new_zeros(*batch.ids.shape, base.projection.out_features)
        with torch.no_grad(), suffix.replaying():
            replayed, _ = suffix.logits(recorded, unchanged)
        own = whole[on(whole.device, recorded.labelled)]
        same = bool((replayed - own).norm() <= REPLAY_TOLERANCE * own.norm())
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        same, problem = False, error
    if not same:
        raise UnsupportedArchitecture(
            "the blocks of this model hand each other more than hidden states, so an edit cannot "
            "be trained from recorded ones",
            "another `--layer` may do, above the blocks that share",
        ) from problem


def _neighbours(batches: Sequence[Batch], max_tokens: int) -> list[list[Batch]]:
    """Neighbouring batches together, up to so many tokens with the pads that this takes."""
    parts: list[list[Batch]] = []
    for batch in batches:
        together = [*(parts[-1] if parts else ()), batch]
        longest = max(one.ids.shape[1] for one in together)
        if parts and longest * sum(len(one.ids) for one in together) <= max_tokens:
            parts[-1] = together
        else:
            parts.append([batch])
    return parts


def _split(run: Record, rows: Sequence[int], offload: StateOffload) -> list[Record]:
    """``run`` cut into records of so many rows each, their states where ``offload`` keeps them."""
    starts = [0, *accumulate(rows)]
    cut = (run.of_rows(range(*between)) for between in pairwise(starts))
    return [replace(record, states=offload.keep(record.states)) for record in cut]
