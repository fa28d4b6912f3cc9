"""What a model makes of a prompt: its states, block by block, and its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any

import torch

from editors.inference.token_subset import AtPlaces, by_token, spare_on
from editors.model.base_model import Base
from editors.model.hooks import hidden_of, reading_inputs, reading_outputs, swapped
from editors.model.tokenization import Batch, Places, Row, encode_prompts

ROWS_AT_ONCE = 512
SEVERAL = 16  # places; fewer go through other kernels, whose sums differ by more
# Tokens that cost about as much as a forward itself, for reading weights and launching kernels.
FORWARD = {"cpu": 16}
FORWARD_ELSEWHERE = 512

Ids = tuple[int, ...]


class _Seen(Exception):  # noqa: N818 - no error: all that was asked for has been seen
    """Ends a forward after the last block that is read."""


def last_states(
    base: Base,
    prompts: Sequence[Ids],
    layers: Sequence[int],
    keep: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
) -> torch.Tensor:
    """float32 ``[n, layers, hidden]``: after each of ``layers`` (rising), at the last token.

    Blocks above the last of ``layers`` do not run. Whatever is attached must be on main memory, and
    no head pruned. ``keep``: what is kept of the states ``[rows, layers, hidden]`` of some prompts,
    row by row, in their place.
    """
    found: dict[int, torch.Tensor] = {}
    for part, batch in _together(base, prompts):
        states = _states(base, batch.ids, layers, _last(batch))
        found.update(zip(part, keep(states), strict=True))
    return torch.stack([found[i] for i in range(len(prompts))])


class Asked:
    """Prompts whose :func:`last_states` are wanted, of a forward of their own or of one that runs
    anyway and takes them along as rows of its batch."""

    def __init__(
        self,
        base: Base,
        prompts: Sequence[Ids],
        layers: Sequence[int],
        keep: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
    ) -> None:
        """As :func:`last_states` has them."""
        self.layers = layers
        self._base, self._prompts, self._keep = base, prompts, keep
        self._found: torch.Tensor | None = None

    def beside(self, batch: Batch, most: int) -> Batch | None:
        """The rows to take along behind those of ``batch``, padded on the right; None where nothing
        is to be seen, or all would have more than ``most`` tokens, with the pads."""
        longest = max([batch.ids.shape[1], *map(len, self._prompts)])
        full = longest * (len(batch.ids) + len(self._prompts)) > most
        if self._found is not None or not self._prompts or full:
            return None
        return self._base.batch([Row(prompt, len(prompt)) for prompt in self._prompts])

    @contextmanager
    def seeing(self, batch: Batch, first: int) -> Iterator[None]:
        """Read a forward of the model whose rows from ``first`` on are those of ``batch``."""
        kept: list[torch.Tensor] = []
        rows, last = _last(batch)
        readers = _readers(self._base, self.layers, (rows + first, last), kept.append)
        with reading_outputs(self._base.model, readers):
            yield
        self._found = self._keep(_stacked(kept))

    def states(self) -> torch.Tensor:
        """float32 ``[n, layers, hidden]``, or what is kept of that."""
        if self._found is None:
            self._found = last_states(self._base, self._prompts, self.layers, self._keep)
        return self._found


def all_states(base: Base, prompt: Ids, layers: Sequence[int]) -> torch.Tensor:
    """float32 ``[tokens, layers, hidden]``: :func:`last_states` of every beginning of ``prompt``.

    A state sees what is before it alone, so that one forward gives them all.
    """
    ids = base.batch([Row(prompt, len(prompt))]).ids
    tokens = torch.arange(len(prompt), device=ids.device)
    return _states(base, ids, layers, (torch.zeros_like(tokens), tokens))


def _states(base: Base, ids: torch.Tensor, layers: Sequence[int], places: Places) -> torch.Tensor:
    """float32 ``[places, layers, hidden]``, on the CPU, of a forward that ends when they are seen.

    ``places``: rows and columns of ``ids``."""
    kept: list[torch.Tensor] = []

    def keep(states: torch.Tensor) -> None:
        kept.append(states)
        if len(kept) == len(layers):
            raise _Seen

    readers = _readers(base, layers, places, keep)
    last = {}
    if len(places[0]) >= SEVERAL:
        # Nothing after the last block that is read looks at what it gives elsewhere.
        spare = spare_on(ids.device)
        own = by_token(base.model, base.architecture.block(layers[-1]))
        last = {
            path: AtPlaces(base.model.get_submodule(path), lambda: places, spare)
            for path, alone in own.items()
            if alone
        }
    with (
        torch.inference_mode(),
        swapped(base.model, last),
        reading_outputs(base.model, readers),
        suppress(_Seen),
    ):
        base.model(input_ids=ids, use_cache=False)
    return _stacked(kept)


def _readers(
    base: Base, layers: Sequence[int], places: Places, keep: Callable[[torch.Tensor], None]
) -> dict[str, Callable[[Any], None]]:
    """For each of ``layers`` what reads its block's output at ``places``."""

    def read(output: Any) -> None:
        hidden = hidden_of(output)
        keep(hidden[tuple(place.to(hidden.device) for place in places)].float())

    return {base.architecture.block(i).path: read for i in layers}


def _stacked(of_layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """float32 ``[places, layers, hidden]``, on the CPU."""
    return torch.stack([states.cpu() for states in of_layers], 1)


def _last(batch: Batch) -> Places:
    """Row and column of the last token of each row."""
    last = batch.mask.sum(1) - 1  # [rows]
    return torch.arange(len(last), device=last.device), last


def _together(base: Base, prompts: Sequence[Ids]) -> list[tuple[list[int], Batch]]:
    """Prompts of like length, padded on the right: their indices, and batches of them.

    Without a mask: a token sees what is before it alone, and pads are behind. A group takes on the
    next longer prompts until its pads would cost more than a forward of their own.
    """
    worth = FORWARD.get(base.input_device.type, FORWARD_ELSEWHERE)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    groups: list[list[int]] = []
    pads = 0
    for i in order:
        if groups:
            pads += len(groups[-1]) * (len(prompts[i]) - len(prompts[groups[-1][-1]]))
        if not groups or pads > worth or len(groups[-1]) == ROWS_AT_ONCE:
            groups.append([])
            pads = 0
        groups[-1].append(i)
    return [
        (group, base.batch([Row(prompts[i], len(prompts[i])) for i in group])) for group in groups
    ]


@torch.inference_mode()
def last_logits(
    base: Base,
    prompts: Sequence[str],
    keep: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
) -> list[torch.Tensor]:
    """For each prompt the logits ``[vocab]`` after its last token, through whatever is attached.

    ``keep``: what is kept of the logits ``[rows, vocab]`` of some prompts, row by row.
    """
    encoded = encode_prompts(base.tokenizer, prompts)
    found: dict[int, torch.Tensor] = {}
    for part, ids in same_length(base, encoded):
        logits = base.model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        found.update(zip(part, keep(logits), strict=True))
    return [found[i] for i in range(len(prompts))]


def projection_inputs(base: Base, prompts: Sequence[Ids]) -> list[torch.Tensor]:
    """For each prompt, what the edited projection reads: float32 ``[tokens, in]``."""
    found: dict[int, torch.Tensor] = {}
    for part, ids in same_length(base, prompts):
        kept: list[torch.Tensor] = []
        readers = {base.anchor.path: _keeping_inputs(kept)}
        with torch.inference_mode(), reading_inputs(base.model, readers), suppress(_Seen):
            base.model(input_ids=ids, use_cache=False)
        # Some blocks flatten what their MLP reads to [batch * seq, in].
        for i, inputs in zip(part, kept[0].view(*ids.shape, -1), strict=True):
            found[i] = inputs.clone()
    return [found[i] for i in range(len(prompts))]


def _keeping_inputs(kept: list[torch.Tensor]) -> Callable[[tuple[Any, ...], dict[str, Any]], None]:
    def read(args: tuple[Any, ...], _: dict[str, Any]) -> None:
        kept.append(args[0].float())
        raise _Seen

    return read


def same_length(base: Base, prompts: Sequence[Ids]) -> list[tuple[list[int], torch.Tensor]]:
    """Groups of prompts of one length: their indices, and int64 ids ``[rows, seq]``."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    groups = []
    for _, group in groupby(order, key=lambda i: len(prompts[i])):
        members = list(group)
        for start in range(0, len(members), ROWS_AT_ONCE):
            part = members[start : start + ROWS_AT_ONCE]
            rows = [Row(prompts[i], len(prompts[i])) for i in part]
            groups.append((part, base.batch(rows).ids))
    return groups
