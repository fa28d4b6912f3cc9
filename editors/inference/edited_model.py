"""A base with edits attached: prompts are rewritten, routed, or answered as by the base.

The class of the model is unchanged, so ``model.generate`` and all code that uses it still work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from editors.errors import EditorError, PromptTooLong
from editors.inference.batching import Budget, in_batches
from editors.inference.call_tracker import BATCH_INSTEAD, CANNOT_TELL, CallTracker
from editors.inference.calls import Call, running_forward
from editors.inference.decisions import Decision, Router
from editors.model.base_model import Base
from editors.model.hooks import overriding, swapped
from editors.model.tokenization import Batch, Ids, Prompt, Row, Side, encode_prompts, shown

T = TypeVar("T")

Rewriter = Callable[[Sequence[Prompt]], list[tuple[Prompt, Decision]]]
"""From prompts to the prompts that the model is to see, each with the decision on it."""

_SAVE = "`editcli export` saves a model with its edits; or detach the edits first"

# Methods of a model that edits would not survive, why, and what to do instead.
REFUSED = {
    **dict.fromkeys(
        ("save_pretrained", "push_to_hub"), ("a plain checkpoint does not hold edits", _SAVE)
    ),
    **dict.fromkeys(("__deepcopy__", "__reduce_ex__"), ("a copy would lose them", _SAVE)),
    **dict.fromkeys(
        ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager"),
        (f"continuous batching joins prompts to one row, {CANNOT_TELL}", BATCH_INSTEAD),
    ),
}


@dataclass(eq=False)
class EditedModel(CallTracker):
    """A base with everything that is attached to it, which may be nothing (:meth:`unedited`).

    ``rewriter``: None leaves all prompts as they are.
    """

    rewriter: Rewriter | None = None

    @staticmethod
    def unedited(base: Base) -> EditedModel:
        """The base alone."""
        return EditedModel(base)

    def rewritten(self, prompts: Sequence[Prompt]) -> list[tuple[Prompt, Decision | None]]:
        """Each prompt as the model is to see it, with the decision of the rewriter.

        The decision is None without a rewriter: then the calls are decided, or nothing is.
        """
        if self.rewriter is None or not prompts:
            return [(prompt, None) for prompt in prompts]
        return [*self.rewriter(prompts)]

    @torch.inference_mode()
    def admitted(
        self, prompts: Sequence[Prompt], room: int = 0
    ) -> list[tuple[Ids, Decision | None]]:
        """The ids of each prompt as the model is to see it, with the decision of the rewriter, as
        :meth:`rewritten` says.

        Raises:
            PromptTooLong: after a prompt, the model's context has less than ``room`` tokens left.
            EditorError: a prompt cannot be encoded.
        """
        context = self.base.architecture.context
        rewritten = self.rewritten(prompts)
        encoded = encode_prompts(self.base.tokenizer, [prompt for prompt, _ in rewritten])
        for prompt, ids in zip(prompts, encoded, strict=True):
            if context is not None and len(ids) + room > context:
                raise PromptTooLong(
                    f"a prompt has {len(ids)} tokens, and the model takes {context}"
                    f"{' with its answer' if room else ''}: {shown(prompt)}",
                    "shorten the prompt",
                )
        return [(ids, decision) for ids, (_, decision) in zip(encoded, rewritten, strict=True)]

    def decisions(self, calls: Sequence[Call]) -> Sequence[Decision] | None:
        """The decisions on the rows of the first of ``calls``; None without a router."""
        return calls[0].decisions if calls and self.router else None

    @torch.inference_mode()
    def run(
        self,
        sides: Sequence[Sequence[Prompt]],
        budget: Budget,
        results_of: Callable[[Batch, list[int]], Iterable[T]],
        *,
        room: int = 0,
        side: Side = "left",
    ) -> list[tuple[T, Decision | None]]:
        """Run the model on prompts: for each its result, and the decision on it.

        ``sides``: the prompts, and maybe as many partners, one for each. ``results_of(batch,
        numbers)``: runs the model, and gives one result for each of the prompts with these
        ``numbers``. A batch holds the prompts, then the partners in the same order; a shorter one
        is padded on the left. The decision is None without a router or rewriter.

        Raises:
            PromptTooLong: after a prompt, the model's context has less than ``room`` tokens left.
            EditorError: a prompt cannot be encoded.
        """
        base = self.base
        admitted = [self.admitted(prompts, room) for prompts in sides]

        def with_decisions(members: list[int]) -> list[tuple[T, Decision | None]]:
            rows = [Row.of_prompt(side[i][0]) for side in admitted for i in members]
            batch = base.batch(rows, side=side)
            # Pads on the right are none of the prompt, on the left the mask says so.
            prompts_in = self.scoring(batch.prompt_lengths) if side == "right" else nullcontext()
            with self.noting() as calls, prompts_in:
                results = results_of(batch, members)
            decisions: Sequence[Decision | None] = self.decisions(calls) or [None] * len(rows)
            return [
                (result, admitted[0][i][1] or decision)
                for i, result, decision in zip(members, results, decisions, strict=False)
            ]

        longest = [max(len(ids) for ids, _ in of_one) for of_one in zip(*admitted, strict=True)]
        return in_batches(longest, budget, with_decisions)


@contextmanager
def attached(
    base: Base,
    replacements: dict[str, nn.Module],
    router: Router | None,
    rewriter: Rewriter | None = None,
    *,
    heads_pruned: bool = False,
) -> Iterator[EditedModel]:
    """The base, inside ``with``, with modules replaced, prompts routed, and prompts rewritten.

    ``replacements``: modules by path. A replacement asks
    :func:`~editors.inference.calls.running_forward` which rows of a forward it has to change.
    ``heads_pruned``: heads are pruned, so the router cannot read its hidden states in the answering
    forward. After ``with``, the base is unchanged, bit for bit. Inside, methods that would lose
    the edits without a word, such as ``save_pretrained``, are refused.

    Raises:
        EditorError: edits are attached to the model already.
    """
    model = base.model
    if "generate" in vars(model):
        raise EditorError(
            "edits are attached to this model already",
            "end the `with` block that attached them first",
        )
    read_layers = router.reads if router is not None else ()
    # A decision may be read in the answering forward only below the first replaced module.
    first_replaced = min((_block_of(base, path) for path in replacements), default=0)
    reads_forwards = bool(read_layers) and not heads_pruned and max(read_layers) < first_replaced
    edited = EditedModel(base, router, reads_forwards, rewriter)

    def after_block(_: nn.Module, __: Any, output: Any) -> None:
        if (forward := running_forward()) is not None:
            forward.read(output)

    with ExitStack() as stack:
        for layer in read_layers if reads_forwards else ():
            block = model.get_submodule(base.architecture.block(layer).path)
            stack.enter_context(block.register_forward_hook(after_block))
        stack.enter_context(swapped(model, replacements))
        methods = {
            "forward": edited.tracking(model.forward),
            "generate": edited.generating(model.generate),
            **{name: _refusing(name) for name in REFUSED if hasattr(model, name)},
        }
        stack.enter_context(overriding(model, methods))
        yield edited


def _refusing(name: str) -> Callable[..., Any]:
    """In place of a method of ``REFUSED``."""

    why, hint = REFUSED[name]

    def refuse(*_: Any, **__: Any) -> Any:
        raise EditorError(f"edits are attached to this model, so `{name}` is refused: {why}", hint)

    return refuse


def _block_of(base: Base, path: str) -> int:
    """The number of the block that holds the module at ``path``; 0 for a module in no block, as
    every block may depend on it."""
    blocks = base.architecture.blocks
    return next((b.index for b in blocks if f"{path}.".startswith(f"{b.path}.")), 0)
