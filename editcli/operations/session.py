"""A store with its base model loaded: what the commands that run a model work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from editcli.cli.context import open_store
from editcli.models.loading import load_base, tools
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.store.transaction import Transaction
from editors import Fact, load_method

if TYPE_CHECKING:
    from editors.methods.base import Method
    from editors.methods.edit_state import EditState
    from editors.model.base_model import Base


@dataclass(frozen=True, slots=True)
class Workspace:
    """A store, the base it was made on, and the editing method at work in it."""

    store: Store
    base: Base
    method: Method

    @staticmethod
    def open(
        explicit: Path | Store | None, *, device: str, dtype: str, verbose: int = 0
    ) -> Workspace:
        """Open the store (unless it is open already) and load its base.

        Raises:
            EditorError: there is no store, or the base cannot be loaded.
            StateMismatch: the base is not the one that the store was made on.
        """
        store = explicit if isinstance(explicit, Store) else open_store(explicit)
        config = store.config
        base = load_base(config, device=device, dtype=dtype, verbose=verbose)
        settings = {key: value for key, value in config.settings.items() if key != "layer"}
        method = load_method(config.method).METHOD(base, settings, config.seed)
        return Workspace(store, base, method)

    def state(self, version: Version | None = None) -> EditState:
        """The edits of ``version`` (default: HEAD)."""
        return state_of(self.store, self.store.head() if version is None else version)

    def unfit(self, fact: Fact) -> str | None:
        """Why the base cannot take `fact`: a prompt too long for its context; None where it can."""
        from editors.errors import PromptTooLong
        from editors.model.tokenization import encode_pairs, require_fit

        asked = [("prompt", fact.prompt, fact.target)]
        asked += [("variants", prompt, fact.target) for prompt in fact.variants]
        asked += [("rephrases", prompt, fact.target) for prompt in fact.rephrases]
        for key, probes in (("locality", fact.locality), ("portability", fact.portability)):
            asked += [(key, probe.prompt, probe.answer or fact.target) for probe in probes]
        pairs = [(prompt, target) for _, prompt, target in asked]
        rows = encode_pairs(self.base.tokenizer, pairs, stop=True)
        for (key, prompt, _), row in zip(asked, rows, strict=True):
            try:
                require_fit(row, prompt, self.base.architecture.context)
            except PromptTooLong as error:
                return f"{key}: {error.message}"
        return None

    @staticmethod
    def publish(
        transaction: Transaction,
        operation: str,
        state: EditState,
        *,
        added: Sequence[str] = (),
        removed: Sequence[str] = (),
        superseded: Sequence[str] = (),
        author: str | None,
        message: str,
        extra: Mapping[str, object],
    ) -> Version:
        """Save ``state`` as the next version."""
        return transaction.publish(
            operation,
            state.to_blobs(),
            [fact.id for fact in state.in_force()],
            added=added,
            removed=removed,
            superseded=superseded,
            author=author or "",
            message=message,
            tools=tools(),
            extra=dict(extra),
        )


def state_of(store: Store, version: Version) -> EditState:
    """The edits of ``version``, read without its base.

    Raises:
        EditorError: a blob is missing or damaged.
        StateMismatch: the blobs are not edits.
    """
    from editors.methods.edit_state import EditState

    return EditState.from_blobs({name: store.read(version, name) for name in version.blobs})
