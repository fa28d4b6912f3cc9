"""A test that routing works on this model, with the installed libraries.

Two rows with the same prompt are decoded: one forward over the prompt, and one more from the cache.
Only the second row is routed. It must be routed in each forward, and the first row must have the
logits of the base, bit for bit. Without this test, a release of transformers that passes its cache
on differently would remain unnoticed until answers are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers
from torch import nn

from editors.errors import UnsupportedArchitecture
from editors.inference.decisions import UNCLAIMED, Decision, ImmediateRouter, Proposal
from editors.inference.edited_model import attached
from editors.inference.generation import greedy_logits
from editors.inference.row_changes import with_changes
from editors.model.base_model import Base
from editors.model.tokenization import Ids, encode_prompt

PROMPT = "Who is it"
MIXED = 0.2  # the relative change of logits that is allowed if the base itself mixes rows
STEPS = 2  # forwards: one over the prompt and one from its cache


def require_routing(base: Base, path: str) -> None:
    """Check that rows can be routed through the module at ``path`` during decoding.

    Raises:
        UnsupportedArchitecture: a routed row is not routed in every forward, or changes another
            row.
    """
    prompt = encode_prompt(base.tokenizer, PROMPT)
    ids = torch.tensor([prompt] * 2, device=base.input_device)
    expected = greedy_logits(base, ids, STEPS)
    shifted = _ShiftedRows(base.model.get_submodule(path))
    with attached(base, {path: shifted}, _SecondRow(prompt)):
        routed_logits = greedy_logits(base, ids, STEPS)
    if shifted.shifts != STEPS:
        raise _refused(f"a routed prompt was routed in {shifted.shifts} of {STEPS} forwards")
    same = all(torch.equal(a[0], b[0]) for a, b in zip(expected, routed_logits, strict=True))
    if not same and not (_rows_mix(base, ids) and _alike(expected, routed_logits)):
        raise _refused("routing one prompt changed the answer to another")
    if any(torch.equal(a[1], b[1]) for a, b in zip(expected, routed_logits, strict=True)):
        raise _refused("a routed prompt was answered as if it had not been routed")


def _rows_mix(base: Base, ids: torch.Tensor) -> bool:
    """Whether the rows of a batch change each other's logits on the unedited base. They do if
    weights and activations are multiplied in 8 bits."""
    other_rows = ids.clone()
    other_rows[1] = ids[1].flip(0)
    [expected], [changed] = (greedy_logits(base, rows, 1) for rows in (ids, other_rows))
    return not torch.equal(expected[0], changed[0])


def _alike(expected: Sequence[torch.Tensor], routed: Sequence[torch.Tensor]) -> bool:
    """Whether the logits of the first row are nearly the same in each forward."""
    pairs = zip(expected, routed, strict=True)
    return all(float((a[0] - b[0]).norm() / a[0].norm()) < MIXED for a, b in pairs)


def _refused(what: str) -> UnsupportedArchitecture:
    return UnsupportedArchitecture(
        f"edits would not be answered reliably with transformers {transformers.__version__} on "
        f"this model: {what}",
        "`pip install` the release of transformers that editcli names in its requirements",
    )


class _SecondRow(ImmediateRouter):
    """Routes the second of two rows with the same prompt. Other prompts are not routed, so that a
    decoded token that counts as a prompt is noticed."""

    def __init__(self, prompt: Ids) -> None:
        self._prompt = prompt

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        routed = Decision(0) if list(prompts) == [self._prompt] * 2 else UNCLAIMED
        return Proposal(prompts, [UNCLAIMED, routed])


class _ShiftedRows(nn.Module):
    """A module whose output is shifted at routed rows. ``shifts`` counts the forwards with routed
    rows."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.shifts = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.base_layer(inputs)

        def shift(_: int, rows: torch.Tensor) -> torch.Tensor:
            self.shifts += 1
            return output.abs().amax().expand(*rows.shape[:-1], output.shape[-1])

        return with_changes(inputs, output, shift)
