"""A store with its base model loaded, for the commands that run a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from editcli.cli.options import Invocation
from editcli.models.libraries import tools, use_threads
from editcli.models.outlines import outline_store_base
from editcli.models.recorded.store_base import load_store_base
from editcli.store.edits import changes_between, edits_of
from editcli.store.records import About, Version
from editcli.store.store import Store
from editcli.store.transaction import Transaction
from editors import METHODS, Fact, PromptTooLong

if TYPE_CHECKING:
    from editors.methods.base import Method
    from editors.methods.edit_state import EditState
    from editors.model.base_model import Base
    from editors.model.tokenization import Wrap


@dataclass(frozen=True, slots=True)
class Session:
    """A store, the base it was made on, and its editing method on that base."""

    store: Store
    base: Base
    method: Method[Any, Any]

    @staticmethod
    def open(
        call: Invocation,
        store: Store | None = None,
        device: str | None = None,
        *,
        chats: bool = False,
    ) -> Session:
        """Open the store of ``call`` (unless it is open already) and load its base. ``chats``: the
        base is to be asked in chats.

        Raises:
            UsageError: the base is to be asked in chats, and its tokenizer has no chat template.
            EditorError: there is no store, or the base cannot be loaded.
            StateMismatch: the base is not the one that the store was made on.
            UnsupportedArchitecture: edits would not be answered reliably with the installed
                libraries.
        """
        store = store or call.open_store()
        use_threads(call.threads)
        base = load_store_base(
            store.config,
            device=device or call.device,
            dtype=call.dtype,
            chats=chats,
            verbose=call.verbose,
            tell=call.tell,
        )
        return Session.on(store, base)

    @staticmethod
    def on(store: Store, base: Base) -> Session:
        """``store`` with its base; raises UnsupportedArchitecture as :meth:`open` does."""
        config = store.config
        method = METHODS.load(config.method).build(base, config.settings, config.seed)
        method.self_test()
        return Session(store, base, method)

    @staticmethod
    def in_front(call: Invocation, store: Store | None = None) -> Session:
        """Open the store of ``call`` (unless it is open already) without the weights of its base:
        another engine answers. A version that no other engine can answer with cannot be read from
        such a session.

        Raises the errors of :func:`~editcli.models.outlines.outline_store_base`.
        """
        store = store or call.open_store()
        use_threads(call.threads)
        config = store.config
        base = outline_store_base(config, call.verbose)
        method = METHODS.load(config.method).build(base, config.settings, config.seed)
        return _InFront(store, base, method)

    def state(self, version: Version | str = "HEAD") -> EditState:
        """The edits of ``version``, ready to be attached."""
        return self.method.open(edits_of(self.store, version, whole=True))

    def why_unfit(self, fact: Fact, asked_as: Wrap = str) -> str | None:
        """Why the base cannot take ``fact``: its target has a special token, which is never said as
        text, or a prompt is too long for the base's context, in the form that it is ``asked_as``.
        None where it can."""
        from editors.model.tokenization import encode_pairs, require_fit

        for token in self.base.tokenizer.all_special_tokens:
            if token in fact.target:
                return f"target: {token!r} is a special token of the model, which is not text"
        prompts = [("prompt", fact.prompt, fact.target)]
        prompts += [("variants", prompt, fact.target) for prompt in fact.variants]
        prompts += [("rephrases", prompt, fact.target) for prompt in fact.rephrases]
        for key, probes in (("locality", fact.locality), ("portability", fact.portability)):
            prompts += [(key, probe.prompt, probe.answer or fact.target) for probe in probes]
        pairs = [(asked_as(prompt), target) for _, prompt, target in prompts]
        rows = encode_pairs(self.base.tokenizer, pairs, stop=True)
        for (key, prompt, _), row in zip(prompts, rows, strict=True):
            try:
                require_fit(row, prompt, self.base.architecture.context)
            except PromptTooLong as error:
                return f"{key}: {error.message}"
        return None

    def publish(
        self,
        transaction: Transaction,
        operation: str,
        before: EditState,
        state: EditState,
        *,
        rejected: bool = False,
        **about: Unpack[About],
    ) -> Version:
        """Save ``state`` as the next version. ``before``: the edits of HEAD, which stays where it
        is if the version is ``rejected``."""
        about["tools"] = tools()
        parent = self.store.head()
        changes = changes_between(self.store, parent, before, self.method.close(state))
        return transaction.publish(operation, changes, rejected=rejected, **about)


class _InFront(Session):
    """A store before another engine."""

    def state(self, version: Version | str = "HEAD") -> EditState:
        """The edits of ``version``. Raises EditorError if no other engine can answer with them."""
        state = Session.state(self, version)
        self.method.served_elsewhere(state)
        return state
