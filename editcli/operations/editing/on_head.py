"""Work that takes long and becomes a version: done without the store's lock, and saved on HEAD.

So nobody waits for it. Where HEAD has moved when the work is done, it is done once more, on what is
HEAD now, and saved as if it had begun then. What does not depend on the move is in the journal, and
is not trained again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from editcli.cli.options import Invocation
from editcli.errors import StoreLocked
from editcli.store.records import Version
from editcli.store.store import Store
from editcli.store.transaction import Transaction
from editors import EditorError

ROUNDS = 2  # without the lock; the next one holds it, as others may never leave HEAD alone
LONG_S = 1.0  # work that is not simply done again

Done = TypeVar("Done")
Saved = TypeVar("Saved")


def saved_on_head(
    call: Invocation,
    store: Store,
    work: Callable[[Version], Done],
    save: Callable[[Transaction, Version, Done], Saved],
) -> Saved:
    """What ``save`` makes, under the lock, of what ``work`` has done on the version that is HEAD
    then.

    ``work`` may be called several times, and raises what it raises if HEAD stays where it was. What
    took long is not given up easily: the lock is waited for as long as the work took.

    Raises:
        StoreLocked: another process holds the lock for longer.
    """
    call.signer(store.config)  # a key that is wrong is told before the work
    started = time.monotonic()
    for _ in range(ROUNDS):
        head = store.head()
        try:
            done = work(head)
        except EditorError:
            if store.head().id == head.id:
                raise
        else:
            with _locked(call, store, time.monotonic() - started) as transaction:
                if store.head().id == head.id:
                    return save(transaction, head, done)
        call.out.note(
            f"HEAD has moved from {head.id} to {store.head().id} meanwhile: what depends on that "
            "is done again"
        )
    with _locked(call, store, time.monotonic() - started) as transaction:
        head = store.head()
        return save(transaction, head, work(head))


@contextmanager
def _locked(call: Invocation, store: Store, patience: float) -> Iterator[Transaction]:
    with ExitStack() as held:
        try:
            transaction = held.enter_context(call.writing(store))
        except StoreLocked as error:
            if patience < LONG_S:
                raise
            call.out.note(f"{error.message}; waiting for it")
            transaction = held.enter_context(call.writing(store, patience))
        yield transaction
