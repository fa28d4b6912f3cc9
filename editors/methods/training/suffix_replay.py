"""The part of a decoder that an edit can change, replayed from recorded activations.

Everything up to the edited projection gives the same result in every training step, so it runs once
and is recorded; a step runs the change of the projection, the blocks above it, and the vocabulary
projection at the labelled positions (WISE cost model: a plain loop spends about 79 % of its
operations on what is replayed here). Rows are padded behind and a token sees what is before it
alone, so no forward needs a mask. Outside the edited block no projection or MLP that is a module
of its own runs on pads, and in the last block only keys and values are made for every token, where
leaving the others out costs less than running them. The
model's own forward does the replaying, with recorded modules swapped in, so masks, positions and
norms are the model's own; ``require_replay`` sees to it that blocks hand on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from editors.errors import UnsupportedArchitecture
from editors.inference.hidden_states import Asked
from editors.inference.token_subset import AtPlaces, at, by_token, on, spare_on
from editors.methods.training.state_offload import Kept, Spool
from editors.model.architecture import Architecture, Projection
from editors.model.hooks import (
    StandIn,
    changing_input,
    hidden_of,
    reading_inputs,
    reading_outputs,
    swapped,
)
from editors.model.tokenization import IGNORED, Batch, Places

# Tokens, pads too, up to which batches share the forward that records them.
SHARED = {"cpu": 0}
SHARED_ELSEWHERE = 4096
ASTRAY = 0.02  # of logits, relative: what a replay may differ by from the model itself
_ENTANGLED = (
    "the blocks of this model hand each other more than hidden states, so an edit cannot be "
    "trained from recorded ones"
)
_ANOTHER = "another `--layer` may do, above the blocks that share"


class _Stopped(Exception):  # noqa: N818 - no error: the recording is complete
    """Ends the recording forward after the edited block."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one forward left at the edited block, for one right-padded batch.

    ``states``: "inputs" ``[batch, seq, features]`` into the projection; "projected": what main
    memory makes of them; "hidden" ``[batch, seq, hidden]`` into the block; "attention": the
    attention module's output in the block. ``real``, ``labelled``: rows and columns of the tokens
    that are no pads and of those before a label; ``labels``: the labels, in the same order;
    ``lengths``: how many tokens each row has.
    """

    batch: Batch
    real: Places
    labelled: Places
    labels: torch.Tensor
    lengths: list[int]
    states: Kept

    @staticmethod
    def of(batch: Batch, states: Kept) -> Record:
        labels = batch.labels()[:, 1:]
        told = labels != IGNORED
        real, labelled = batch.mask.nonzero(as_tuple=True), told.nonzero(as_tuple=True)
        return Record(batch, real, labelled, labels[told], batch.mask.sum(1).tolist(), states)

    @property
    def inputs(self) -> torch.Tensor:
        """``[batch, seq, features]``: what the projection reads."""
        return self.states["inputs"]

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.lengths)

    def side(self, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """``[batch, seq, out]``: what ``change``, of ``[..., features]``, makes of the real tokens
        that the projection reads; at pads of no meaning."""
        side: torch.Tensor = at(self.real, self.inputs, change, spare_on(self.inputs.device))
        return side

    def of_rows(self, rows: Sequence[int]) -> Record:
        """Some rows of the batch alone, cut to the longest of them."""
        return Record.joined([(self, rows)])

    @staticmethod
    def joined(parts: Sequence[tuple[Record, Sequence[int]]]) -> Record:
        """Some rows of each record, in this order, as one: no longer than the longest of them."""
        first, rows = parts[0]
        if len(parts) == 1 and list(rows) == list(range(first.rows)):
            return first
        cut = [record._cut(list(rows)) for record, rows in parts]
        batch = _stacked([batch for batch, _ in cut])
        states = {
            name: _behind([_wider(of_part[name], batch.ids.shape[1]) for _, of_part in cut])
            for name in cut[0][1]
        }
        return Record.of(batch, Kept.of(states))

    def _cut(self, rows: list[int]) -> tuple[Batch, dict[str, torch.Tensor]]:
        """Some rows of the batch, cut to the longest, and their states ``[rows, seq, size]``."""
        longest, whole = max(self.lengths[row] for row in rows), self.batch
        batch = Batch(
            whole.ids[rows, :longest], whole.mask[rows, :longest], whole.prompt_lengths[rows]
        )
        return batch, {name: self.states.part(name, rows, longest) for name in self.states}


class _Replay(StandIn):
    """Gives what ``value`` gives, shaped like the module's own output."""

    def __init__(self, original: nn.Module, value: Any, tuple_size: int) -> None:
        super().__init__(original)
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_tuple_size", tuple_size)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        value = self._value(args[0] if args else kwargs.get("hidden_states"))
        return value if self._tuple_size == 0 else (value, *[None] * (self._tuple_size - 1))


def _kept(run: Record, rows: Sequence[int], spool: Spool) -> list[Record]:
    """``run`` cut into records of so many rows each, their states where ``spool`` keeps them."""
    starts = [0, *accumulate(rows)]
    cut = (run.of_rows(range(*between)) for between in pairwise(starts))
    return [replace(record, states=spool.keep(record.states)) for record in cut]


def _sharing(batches: Sequence[Batch], most: int) -> list[list[Batch]]:
    """Neighbours together, up to so many tokens with the pads that this takes."""
    parts: list[list[Batch]] = []
    for batch in batches:
        together = [*(parts[-1] if parts else ()), batch]
        longest = max(one.ids.shape[1] for one in together)
        if parts and longest * sum(len(one.ids) for one in together) <= most:
            parts[-1] = together
        else:
            parts.append([batch])
    return parts


def _stacked(batches: Sequence[Batch]) -> Batch:
    """Batches as one, their rows in order, padded to the longest."""
    if len(batches) == 1:
        return batches[0]
    longest = max(batch.ids.shape[1] for batch in batches)
    ids = torch.cat([_wider(batch.ids, longest) for batch in batches])
    mask = torch.cat([_wider(batch.mask, longest) for batch in batches])
    return Batch(ids, mask, torch.cat([batch.prompt_lengths for batch in batches]))


def _wider(of_tokens: torch.Tensor, seq: int) -> torch.Tensor:
    """``[rows, seq, ...]``, zeros behind."""
    more = seq - of_tokens.shape[1]
    return F.pad(of_tokens, (*(0, 0) * (of_tokens.ndim - 2), 0, more)) if more else of_tokens


def _behind(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class Suffix:
    """The forward from one block's edited projection to the logits of labelled positions.

    Made by :meth:`record`; ``records``: what it kept of each batch. ``logits`` may be called only
    inside ``with suffix.replaying():``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        architecture: Architecture,
        layer: int,
        records: Sequence[Record],
        shape: dict[str, int],
    ) -> None:
        self._model, self._architecture, self._layer = model, architecture, layer
        self.records, self._shape = records, shape
        self._active: Record | None = None
        self._side: torch.Tensor | None = None
        self.projection: Projection = architecture.editable(layer)

    @classmethod
    def record(
        cls,
        model: PreTrainedModel,
        architecture: Architecture,
        layer: int,
        batches: Sequence[Batch],
        spool: Spool | None = None,
        spare: int | None = None,
        shared: int | None = None,
        along: Asked | None = None,
    ) -> Suffix:
        """Run each right-padded batch up to block ``layer`` and keep what the suffix needs.

        ``spool``: where it is kept; by default all of it in memory. ``spare``: so many pads are run
        rather than left out; ``shared``: neighbours among the batches run together up to so many
        tokens, padded; both by default as is worth it where the batches are. ``along``: what the
        last of them takes along where there is room and it is read below the block.

        Raises:
            UnsupportedArchitecture: the block has no projection to edit.
        """
        block = architecture.block(layer)
        projection = architecture.editable(layer)
        seen: dict[str, Any] = {}
        shape: dict[str, int] = {"mlp": 0}
        mlp_path = projection.path.rpartition(".")[0]

        def keep(name: str) -> Any:
            def read(output: Any) -> None:
                # A copy: some blocks go on to add to what their MLP gave in its place.
                seen[name] = hidden_of(output).detach().clone()
                shape[name] = len(output) if isinstance(output, tuple) else 0

            return read

        def keep_input(name: str) -> Any:
            def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                seen[name] = (args[0] if args else kwargs["hidden_states"]).detach()
                seen[name + "_args"] = len(args) + len(kwargs)

            return read

        def stop(output: Any) -> None:
            shape["block"] = len(output) if isinstance(output, tuple) else 0
            raise _Stopped

        readers_in = {projection.path: keep_input("inputs"), block.path: keep_input("hidden")}
        readers_out = {projection.path: keep("projected"), block.path: stop}
        if block.attention is not None:
            readers_out[block.attention] = keep("attention")
        if mlp_path != block.path:
            readers_in[mlp_path] = keep_input("mlp_in")
            readers_out[mlp_path] = keep("mlp_out")
        real: Places = ()  # of the batch that runs
        shape["spare"] = spare if spare is not None else spare_on(batches[0].ids.device)
        most = SHARED.get(batches[0].ids.device.type, SHARED_ELSEWHERE)
        most = most if shared is None else shared
        parts = _sharing(batches, most)
        stacked = [_stacked(part) for part in parts]
        seeing: list[AbstractContextManager[None]] = [nullcontext() for _ in parts]
        if along and along.layers[-1] < layer and (more := along.beside(stacked[-1], most)):
            seeing[-1] = along.seeing(more, len(stacked[-1].ids))
            stacked[-1] = _stacked([stacked[-1], more])
        pads = max(int((batch.mask == 0).sum()) for batch in stacked)
        packed = {
            path: AtPlaces(model.get_submodule(path), lambda: real, shape["spare"])
            for below in (architecture.blocks[:layer] if pads > shape["spare"] else ())
            for path in by_token(model, below)
        }
        kept = ["inputs", "projected", "hidden"]
        kept += ["attention"] if block.attention is not None else []
        spool, records = spool or Spool(), []
        with (
            torch.no_grad(),
            swapped(model, packed),
            reading_inputs(model, readers_in),
            reading_outputs(
                model, dict(sorted(readers_out.items(), key=lambda kv: kv[0] == block.path))
            ),
        ):
            for part, batch, beside in zip(parts, stacked, seeing, strict=True):
                real = batch.mask.nonzero(as_tuple=True)
                with beside, suppress(_Stopped):
                    model(input_ids=batch.ids, use_cache=False)
                # Bound to no name: what the spool puts away would lie beside the next forward's.
                shape |= {f"{name}_ndim": seen[name].ndim for name in kept}
                of_tokens = (*batch.ids.shape, -1)  # some blocks flatten what their MLP reads
                records += _kept(
                    Record.of(batch, Kept.of({name: seen[name].view(of_tokens) for name in kept})),
                    [len(one.ids) for one in part],
                    spool,
                )
        # The whole MLP may be skipped where its output is the projection's and it takes one input.
        skippable = (
            mlp_path != block.path
            and seen["mlp_in_args"] == 1
            and torch.equal(seen["mlp_out"], seen["projected"])
        )
        shape["skip_mlp"] = int(skippable)
        return cls(model, architecture, layer, records, shape)

    def holding(self, records: Sequence[Record]) -> Suffix:
        """The same with these records, which were made of the same model and block."""
        return Suffix(self._model, self._architecture, self._layer, records, self._shape)

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Swap the recorded modules in; the model is itself again on leaving."""
        block = self._architecture.block(self._layer)
        get = self._model.get_submodule
        replacements: dict[str, nn.Module] = {}
        for below in self._architecture.blocks[: self._layer]:
            # The first block hands out what the edited block read; the others pass it on.
            value = (lambda _: self._state("hidden")) if below.index == 0 else (lambda given: given)
            replacements[below.path] = _Replay(get(below.path), value, self._shape["block"])
        if block.attention is not None:
            replacements[block.attention] = _Replay(
                get(block.attention), lambda _: self._state("attention"), self._shape["attention"]
            )
        mlp_path = self.projection.path.rpartition(".")[0]
        edited = mlp_path if self._shape["skip_mlp"] else self.projection.path
        size = self._shape["mlp_out"] if self._shape["skip_mlp"] else 0
        replacements[edited] = _Replay(get(edited), lambda _: self._project(), size)
        for above in self._architecture.blocks[self._layer + 1 :]:
            # Nothing after the last block looks at other places than the labelled ones.
            last = above.index == len(self._architecture.blocks) - 1
            for path, own in by_token(self._model, above).items():
                places = self._labelled if last and own else self._real
                replacements[path] = AtPlaces(get(path), places, self._shape["spare"])
        head = self._model.get_output_embeddings()
        with ExitStack() as stack:
            stack.enter_context(swapped(self._model, replacements))
            stack.enter_context(changing_input(head, self._answering))
            # The fused CPU kernel's backward is many times slower than plain products.
            if self.records[0].batch.ids.device.type == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def logits(self, record: Record, side: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[labels, vocab]`` and labels ``[labels]`` of a record, or of rows of one.

        ``side``: ``[batch, seq, out]``, added to what the projection gives; gradients flow to it.
        Rows are in batch order, positions in text order.
        """
        self._active, self._side = record, side
        try:
            out = self._model(input_ids=record.batch.ids, use_cache=False)
            return out.logits[0], record.labels.to(out.logits.device)
        finally:
            self._active = self._side = None

    def _now(self) -> Record:
        assert self._active is not None, "logits() runs only inside replaying()"
        return self._active

    def _state(self, name: str) -> torch.Tensor:
        state = self._now().states[name]
        return state if self._shape[f"{name}_ndim"] == 3 else state.flatten(0, 1)

    def _project(self) -> torch.Tensor:
        assert self._side is not None
        main = self._state("projected")
        return main + self._side.reshape(main.shape)

    def _answering(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[batch, seq, hidden]`` -> ``[1, labels, hidden]``: the positions before a label."""
        if self._active is None:
            return hidden
        return hidden[on(hidden.device, self._active.labelled)][None]

    def _labelled(self) -> Places:
        return self._now().labelled

    def _real(self) -> Places:
        return self._now().real


def require_replay(
    model: PreTrainedModel, architecture: Architecture, layer: int, batch: Batch
) -> None:
    """See that without a change the recorded suffix gives ``batch`` the model's own logits.

    Raises:
        UnsupportedArchitecture: it does not: blocks hand each other more than hidden states.
    """
    with torch.no_grad():
        whole = model(input_ids=batch.ids, use_cache=False).logits
    try:
        suffix = Suffix.record(model, architecture, layer, [batch], spare=0)
        [record] = suffix.records
        unchanged = record.inputs.new_zeros(*batch.ids.shape, suffix.projection.out_features)
        with torch.no_grad(), suffix.replaying():
            found, _ = suffix.logits(record, unchanged)
        own = whole[on(whole.device, record.labelled)]
        same = bool((found - own).norm() <= ASTRAY * own.norm())
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedArchitecture(_ENTANGLED, _ANOTHER) from error
    if not same:
        raise UnsupportedArchitecture(_ENTANGLED, _ANOTHER)
