"""A model with edits attached, for use in Python."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editors.inference.next_tokens import after_prompts
from editors.methods.base import Method
from editors.methods.edit_state import EditState
from editors.methods.explanation import Explanation
from editors.model.tokenization import Prompt


class LoadedModel:
    """A transformers model whose edits stay attached until :meth:`close`.

    ``model``: the model, of its own class, so ``generate``, ``pipeline`` and all other code for it
    work; every prompt is routed by itself. ``tokenizer``: its tokenizer. ``state``: the edits.
    ``edited``: the base with the edits, as this library runs it. It may be used in a ``with``,
    which closes it at the end.
    """

    def __init__(self, method: Method[Any, Any], state: EditState) -> None:
        """Attach ``state``, a loaded state of ``method``, to the base of ``method``.

        Raises:
            StateMismatch: ``state`` belongs to another base.
            EditorError: edits are attached to the model already.
        """
        self.state = state
        self.model: PreTrainedModel = method.base.model
        self.tokenizer: PreTrainedTokenizerBase = method.base.tokenizer
        self._method, self._stack = method, ExitStack()
        self.edited = self._stack.enter_context(method.attach(state))

    def explain(self, prompt: Prompt) -> Explanation:
        """Why the model answers ``prompt``, a text or the turns of a chat, as it does.

        Raises:
            PromptTooLong: the prompt is longer than the context of the model.
            EditorError: the prompt cannot be encoded.
        """
        [(_, decision)] = after_prompts(self.edited, [prompt], lambda _, numbers: numbers)
        return Explanation.of(decision, self._method, self.state)

    def rewritten(self, prompt: Prompt) -> Prompt:
        """``prompt`` as the model has to see it. Only a method that rewrites prompts, such as
        ``in-context``, changes it; ``model.generate`` cannot do so by itself."""
        [(text, _)] = self.edited.rewritten([prompt])
        return text

    def close(self) -> None:
        """Detach the edits: the model is the base again, bit for bit."""
        self._stack.close()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
