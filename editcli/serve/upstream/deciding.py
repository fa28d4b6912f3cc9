"""Decisions on prompts, taken by the scope of a store in one thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from editcli.operations.explained_answer import ExplainedDecision
from editcli.operations.session import Session
from editcli.serve.catalogue import KEPT
from editcli.serve.engine import Served
from editors import EditorError

if TYPE_CHECKING:
    from editors.methods.elsewhere import Dispatch, Elsewhere
    from editors.model.tokenization import Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision on a prompt in words, and what the upstream is to be asked for it."""

    decision: ExplainedDecision
    dispatch: Dispatch


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Prompts of one request, and who waits for the decisions on them."""

    served: Served
    prompts: Sequence[Prompt]
    decided: asyncio.Future[list[Decided]]


class Deciding:
    """Decides on prompts. Those that come while others are decided are decided together after
    them: an encoder reads many texts in little more time than one.

    To be used in one event loop.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread = ThreadPoolExecutor(1, "editcli-scope")
        self._waiting: list[_Waiting] = []
        self._work: asyncio.Task[None] | None = None
        self._elsewhere = lru_cache(KEPT)(self._served_elsewhere)

    async def decided(self, served: Served, prompts: Sequence[Prompt]) -> list[Decided]:
        """The decision on each prompt; raises EditorError if one cannot be encoded."""
        asked = _Waiting(served, prompts, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._decide_waiting())
        return await asked.decided

    async def adapters(self, served: Served) -> tuple[str, ...]:
        """The names of the adapters that the upstream has to hold."""
        if served.state is None:
            return ()
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(self._thread, self._elsewhere, served)).adapters

    def close(self) -> None:
        """Decide no more."""
        self._thread.shutdown(cancel_futures=True)

    async def _decide_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            served = self._waiting[0].served
            batch = [asked for asked in self._waiting if asked.served is served]
            self._waiting = [asked for asked in self._waiting if asked.served is not served]
            batch = [asked for asked in batch if not asked.decided.done()]  # somebody has left
            requests = [asked.prompts for asked in batch]
            outcomes = await loop.run_in_executor(self._thread, self._outcomes, served, requests)
            for asked, outcome in zip(batch, outcomes, strict=True):
                if asked.decided.done():
                    continue
                if isinstance(outcome, Exception):
                    asked.decided.set_exception(outcome)
                else:
                    asked.decided.set_result(outcome)

    # --- in the thread --------------------------------------------------------------------------

    def _outcomes(
        self, served: Served, requests: Sequence[Sequence[Prompt]]
    ) -> list[list[Decided] | Exception]:
        """For each request, the decisions on its prompts, or why there are none."""
        try:
            of_all = iter(self._decided(served, [p for prompts in requests for p in prompts]))
            return [[next(of_all) for _ in prompts] for prompts in requests]
        except Exception as error:
            if len(requests) > 1:  # one bad prompt spoils no other request
                return [self._outcomes(served, [prompts])[0] for prompts in requests]
            if not isinstance(error, EditorError):
                logger.exception("a prompt could not be decided")
            return [error]

    def _decided(self, served: Served, prompts: Sequence[Prompt]) -> list[Decided]:
        from editors.inference.decisions import UNCLAIMED
        from editors.methods.elsewhere import Dispatch

        method, state = self._session.method, served.state
        if state is None:
            of_base = ExplainedDecision.of(None, method, None)
            return [Decided(of_base, Dispatch(UNCLAIMED)) for _ in prompts]
        return [
            Decided(ExplainedDecision.of(dispatch.decision, method, state), dispatch)
            for dispatch in self._elsewhere(served).dispatcher(prompts)
        ]

    def _served_elsewhere(self, served: Served) -> Elsewhere:
        assert served.state is not None
        return self._session.method.served_elsewhere(served.state)
