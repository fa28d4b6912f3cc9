"""A base as it answers with edits attached: prompts are rewritten, routed, or left alone.

The model's own class goes on working, so ``model.generate`` and all that is built on it do too.
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
"""Prompts as the model is to see them, each with the decision that made it so."""


class EditedModel:
    """A base with whatever is attached to it; a base alone is one too (:meth:`unedited`)."""

    def __init__(
        self,
        base: Base,
        tracker: CallTracker | None = None,
        rewriter: Rewriter | None = None,
        *,
        routed: bool = False,
    ) -> None:
        """``routed``: the calls of the tracker are decided by a router."""
        self.base = base
        self._tracker, self._rewriter, self._routed = tracker, rewriter, routed

    @staticmethod
    def unedited(base: Base) -> EditedModel:
        """The base as it is."""
        return EditedModel(base)

    def rewritten(self, prompts: Sequence[Prompt]) -> list[tuple[Prompt, Decision | None]]:
        """Each prompt as the model is to see it, with the decision that was taken for that.

        The decision is None where the model's own forwards decide, or nothing does.
        """
        if self._rewriter is None or not prompts:
            return [(prompt, None) for prompt in prompts]
        return [*self._rewriter(prompts)]

    @contextmanager
    def noting(self) -> Iterator[list[Call]]:
        """The calls that are begun inside ``with``, in this thread, in order."""
        if self._tracker is None:
            yield []
            return
        with self._tracker.noting() as calls:
            yield calls

    def decisions(self, calls: Sequence[Call]) -> Sequence[Decision] | None:
        """What was decided of the rows of the first of ``calls``; None where nothing decides."""
        return calls[0].decisions if calls and self._routed else None

    @contextmanager
    def scoring(self, prompt_lengths: torch.Tensor) -> Iterator[None]:
        """Prompts end after ``prompt_lengths`` ``[rows]`` real tokens, not where rows end."""
        with self._tracker.scoring(prompt_lengths) if self._tracker else nullcontext():
            yield

    @contextmanager
    def continuing(self, call: Call | None) -> Iterator[None]:
        """Forwards inside ``with`` come after the prompts of ``call``, and repeat its rows."""
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
    """The base with modules replaced, every prompt routed, and prompts rewritten.

    A replacement finds the rows of a forward that it is to change by
    :func:`~editors.inference.calls.running_forward`. On leaving, the base is itself again, bit for
    bit. ``heads_pruned``: the answering forward does not show the states that a router knows.

    Raises:
        EditorError: something is attached to the model already.
    """
    model = base.model
    if "generate" in vars(model):
        raise EditorError(
            "edits are attached to this model already", "leave the first `with` first"
        )
    read = router.reads if router is not None else ()
    # The forward that answers is decided by what it shows below the first module that is replaced.
    first = min((_block_of(base, path) for path in replacements), default=0)
    reads_forwards = bool(read) and not heads_pruned and max(read) < first
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
            for layer in (read if reads_forwards else ())
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
    """The number of the block that the module at ``path`` lies in."""
    return next(
        block.index for block in base.architecture.blocks if path.startswith(f"{block.path}.")
    )
