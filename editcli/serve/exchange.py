"""One request: its jobs in the engine, and what they tell, in the loop of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from editcli.serve.engine import Decided, Engine, Failed, Job, Served
from editcli.serve.metrics import Metrics
from editcli.serve.wire import ChatAsked, CompletionAsked

if TYPE_CHECKING:
    from editcli.serve.engine import Event
    from editors.inference.live_answers import LiveAnswer


FACTS_HEADER = "x-editcli-facts"
"""Of a response: :func:`facts_of` its decisions."""


class Exchange:
    """The answers to one request: ``n`` to each of its prompts, in this order."""

    def __init__(
        self, asked: ChatAsked | CompletionAsked, served: Served, longest: int, metrics: Metrics
    ) -> None:
        """``longest``: the length of the longest answer where the request names none."""
        self.served, self._metrics = served, metrics
        self._told: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._kept: list[tuple[int, Event]] = []  # told, and not read yet
        self._loop = asyncio.get_running_loop()
        prompts = [prompt for prompt in asked.prompts for _ in range(asked.n)]
        self._each = asked.n
        self._jobs = [
            Job(
                served,
                prompt,
                asked.length or longest,
                partial(self._tell, index),
                streams=asked.stream,
                stops=asked.stops,
                sampling=_sampling(asked, index),
            )
            for index, prompt in enumerate(prompts)
        ]
        self.tokens = {"prompt_tokens": 0, "completion_tokens": 0}

    @property
    def choices(self) -> int:
        """The number of answers."""
        return len(self._jobs)

    def submit(self, engine: Engine) -> None:
        """Have the jobs answered."""
        engine.submit(self._jobs)

    def drop(self) -> None:
        """Nobody waits for the answers any more."""
        for job in self._jobs:
            job.unwanted = True

    async def decided(self) -> list[dict[str, Any]]:
        """The decision on each prompt, once all are taken.

        Raises what kept a prompt from being asked.
        """
        decisions: dict[int, Decided] = {}
        while len(decisions) < len(self._jobs):
            index, event = await self._told.get()
            if isinstance(event, Failed):
                self.drop()
                raise event.error
            if isinstance(event, Decided):
                decisions[index] = event
            else:
                self._kept.append((index, event))
        of_prompts = [decisions[index] for index in range(0, len(self._jobs), self._each)]
        self.tokens["prompt_tokens"] = sum(decided.prompt_tokens for decided in of_prompts)
        records = [decided.decision.record for decided in of_prompts]
        for record in records:
            if record["fact"]:
                self._metrics.add("claims", fact=record["fact"])
        return records

    async def told(self) -> AsyncIterator[tuple[int, str | LiveAnswer]]:
        """After :meth:`decided`: the pieces of the answers, and each answer once it is whole, with
        its number. Raises what broke an answer."""
        missing = len(self._jobs)
        while missing:
            index, event = self._kept.pop(0) if self._kept else await self._told.get()
            if isinstance(event, Failed):
                self.drop()
                raise event.error
            if isinstance(event, Decided):
                continue
            if not isinstance(event, str):
                missing -= 1
                self.tokens["completion_tokens"] += event.tokens
                self._metrics.add("answers", version=self.served.id)
                self._metrics.add("tokens", event.tokens, kind="completion")
            yield index, event
        self._metrics.add("tokens", self.tokens["prompt_tokens"], kind="prompt")

    async def whole(self) -> list[LiveAnswer]:
        """After :meth:`decided`: all answers in order."""
        answers = {index: event async for index, event in self.told() if not isinstance(event, str)}
        return [answers[index] for index in range(len(self._jobs))]

    def _tell(self, index: int, event: Event) -> None:
        """Called in the thread of the engine; raises RuntimeError once the loop has ended."""
        self._loop.call_soon_threadsafe(self._told.put_nowait, (index, event))


def _sampling(asked: ChatAsked | CompletionAsked, index: int) -> Any:
    """How the answer with this number is drawn; None: the likeliest tokens."""
    from editors.inference.live_answers import Sampling

    if not asked.samples:
        return None
    seed = None if asked.seed is None else (asked.seed, index)
    return Sampling(asked.temperature, asked.top_p, seed)


def facts_of(decisions: Sequence[dict[str, Any]]) -> str:
    """The ids of the facts that answered, each once."""
    return ",".join(dict.fromkeys(record["fact"] for record in decisions if record["fact"]))
