"""A test that routing works on this model, with the installed libraries.

Two rows with the same prompt are decoded: one forward over the prompt, and one more from the cache.
Only the second row is routed. It must be routed in each forward, and the first row must have the
logits of the base, bit for bit. Without this test, a release of transformers that passes its cache
on differently would remain unnoticed until answers are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import transformers

from editors.errors import UnsupportedArchitecture
from editors.inference.decisions import UNCLAIMED, Decision, ImmediateRouter, Proposal
from editors.inference.edited_model import attached
from editors.inference.generation import greedy_logits
from editors.inference.row_changes import with_changes
from editors.model.base_model import Base
from editors.model.hooks import StandIn
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
    expected = greedy_logits(base, ids, STEPS)  # [steps, rows, vocab]
    projection, shifts = base.model.get_submodule(path), 0

    def shifted(inputs: torch.Tensor) -> torch.Tensor:
        """The output of the projection, shifted at routed rows."""
        output: torch.Tensor = projection(inputs)

        def shift(_: int, rows: torch.Tensor) -> torch.Tensor:
            nonlocal shifts
            shifts += 1
            return output.abs().amax().expand(*rows.shape[:-1], output.shape[-1])

        return with_changes(inputs, output, shift)

    with attached(base, {path: StandIn(projection, forward=shifted)}, _SecondRow(prompt)):
        routed = greedy_logits(base, ids, STEPS)
    same = (routed == expected).all(-1)  # [steps, rows]
    changes = (routed - expected)[:, 0].norm(dim=-1) / expected[:, 0].norm(dim=-1)  # [steps]
    if shifts != STEPS:
        problem = f"a routed prompt was routed in {shifts} of {STEPS} forwards"
    elif not same[:, 0].all() and not ((changes < MIXED).all() and _rows_mix(base, ids)):
        problem = "routing one prompt changed the answer to another"
    elif same[:, 1].any():
        problem = "a routed prompt was answered as if it had not been routed"
    else:
        return
    raise UnsupportedArchitecture(
        f"edits would not be answered reliably with transformers {transformers.__version__} on "
        f"this model: {problem}",
        "`pip install` the release of transformers that editcli names in its requirements",
    )


def _rows_mix(base: Base, ids: torch.Tensor) -> bool:
    """Whether the rows of a batch change each other's logits on the unedited base. They do if
    weights and activations are multiplied in 8 bits."""
    other_rows = torch.stack([ids[0], ids[1].flip(0)])
    [expected], [changed] = (greedy_logits(base, rows, 1) for rows in (ids, other_rows))
    return not torch.equal(expected[0], changed[0])


@dataclass(frozen=True)
class _SecondRow(ImmediateRouter):
    """Routes the second of two rows with the same prompt. Other prompts are not routed, so that a
    decoded token that counts as a prompt is noticed."""

    prompt: Ids

    def propose(self, prompts: Sequence[Ids]) -> Proposal:
        routed = Decision(0) if list(prompts) == [self.prompt] * 2 else UNCLAIMED
        return Proposal(prompts, [UNCLAIMED, routed])
