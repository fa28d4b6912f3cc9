"""A base with edits attached: prompts are rewritten, routed, or answered as by the base.

The class of the model is unchanged, so ``model.generate`` and all code that uses it still work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from editors.errors import EditorError
from editors.inference.call_tracker import CallTracker
from editors.inference.calls import Call, running_forward
from editors.inference.decisions import Decision, Router
from editors.model.base_model import Base
from editors.model.hooks import swapped
from editors.model.tokenization import Prompt

Rewriter = Callable[[Sequence[Prompt]], list[tuple[Prompt, Decision]]]
"""From prompts to the prompts that the model is to see, each with the decision on it."""


class EditedModel:
    """A base with everything that is attached to it, which may be nothing (:meth:`unedited`)."""

    def __init__(
        self,
        base: Base,
        tracker: CallTracker | None = None,
        rewriter: Rewriter | None = None,
        *,
        routed: bool = False,
    ) -> None:
        """``routed``: a router decides the calls of ``tracker``."""
        self.base = base
        self._tracker, self._rewriter, self._routed = tracker, rewriter, routed

    @staticmethod
    def unedited(base: Base) -> EditedModel:
        """The base alone."""
        return EditedModel(base)

    def rewritten(self, prompts: Sequence[Prompt]) -> list[tuple[Prompt, Decision | None]]:
        """Each prompt as the model is to see it, with the decision of the rewriter.

        The decision is None without a rewriter: then the calls are decided, or nothing is.
        """
        if self._rewriter is None or not prompts:
            return [(prompt, None) for prompt in prompts]
        return [*self._rewriter(prompts)]

    @contextmanager
    def noting(self) -> Iterator[list[Call]]:
        """A list of the calls that begin inside ``with``, in this thread, in order."""
        if self._tracker is None:
            yield []
            return
        with self._tracker.noting() as calls:
            yield calls

    def decisions(self, calls: Sequence[Call]) -> Sequence[Decision] | None:
        """The decisions on the rows of the first of ``calls``; None without a router."""
        return calls[0].decisions if calls and self._routed else None

    @contextmanager
    def scoring(self, prompt_lengths: torch.Tensor) -> Iterator[None]:
        """Inside ``with``, prompts are the first ``prompt_lengths`` ``[rows]`` real tokens of
        rows."""
        with self._tracker.scoring(prompt_lengths) if self._tracker else nullcontext():
            yield

    @contextmanager
    def continuing(self, call: Call | None) -> Iterator[None]:
        """Inside ``with``, forwards hold tokens after the prompts of ``call``, whose rows they
        repeat."""
        tracked = self._tracker is not None and call is not None
        with self._tracker.continuing(call) if tracked else nullcontext():  # type: ignore[union-attr,arg-type]
            yield


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
    forward. After ``with``, the base is unchanged, bit for bit.

    Raises:
        EditorError: edits are attached to the model already.
    """
    model = base.model
    if "generate" in vars(model):
        raise EditorError(
            "edits are attached to this model already", "leave the first `with` first"
        )
    read_layers = router.reads if router is not None else ()
    # A decision may be read in the answering forward only below the first replaced module.
    first_replaced = min((_block_of(base, path) for path in replacements), default=0)
    reads_forwards = bool(read_layers) and not heads_pruned and max(read_layers) < first_replaced
    tracker = CallTracker(base, router, reads_forwards=reads_forwards)

    def after_block(_: nn.Module, __: Any, output: Any) -> None:
        if (forward := running_forward()) is not None:
            forward.read(output)

    handles = [
        model.register_forward_pre_hook(lambda _, a, k: tracker.before(a, k), with_kwargs=True),
        model.register_forward_hook(
            lambda _, a, k, output: tracker.after(a, k, output), with_kwargs=True, always_call=True
        ),
        *(
            model.get_submodule(base.architecture.block(layer).path).register_forward_hook(
                after_block
            )
            for layer in (read_layers if reads_forwards else ())
        ),
    ]
    try:
        with swapped(model, replacements):
            model.generate = tracker.generating(model.generate)
            yield EditedModel(base, tracker, rewriter, routed=router is not None)
    finally:
        vars(model).pop("generate", None)
        for handle in handles:
            handle.remove()


def _block_of(base: Base, path: str) -> int:
    """The number of the block that holds the module at ``path``."""
    return next(
        block.index for block in base.architecture.blocks if path.startswith(f"{block.path}.")
    )
