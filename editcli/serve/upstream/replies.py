"""What the upstream answers, with what was decided.

The parts of a request are answered as one: their choices are numbered as if the prompts had been
asked together, and their tokens are added up.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from httpx import Response

from editcli.serve.metrics import Metrics
from editcli.serve.problems import problem_of
from editcli.serve.upstream.client import Upstream, UpstreamFailedError
from editcli.serve.upstream.parts import Part
from editcli.serve.wire import event

DATA = "data:"
END = "[DONE]"
COUNTED = ("prompt", "completion")  # kinds of tokens

logger = logging.getLogger(__name__)


class Replies:
    """The answers to the parts of one request.

    ``about``: the fields that say what answered, which every answer gets. ``version``: what
    answered, for the counters.
    """

    def __init__(
        self,
        upstream: Upstream,
        asked: Sequence[tuple[Part, Response]],
        about: Mapping[str, Any],
        model: str,
        version: str,
        metrics: Metrics,
    ) -> None:
        """``asked``: each part, and the response to it; ``model``: as the request calls it."""
        self._upstream, self._asked = upstream, asked
        self._about, self._model = about, model
        self._version, self._metrics = version, metrics
        self._told: set[int] = set()  # the choices with which the decisions were told
        self._usage: dict[str, Any] = {}  # of the parts that are over
        self._is_last = False  # of the part that is being streamed

    async def whole(self) -> dict[str, Any]:
        """The answer; raises UpstreamFailedError. The responses are closed."""
        try:
            bodies = [await self._upstream.read(response) for _, response in self._asked]
        finally:
            await close_all(self._asked)
        choices = []
        for (part, _), body in zip(self._asked, bodies, strict=True):
            choices += self._numbered(part, body)
            self._count(body.get("usage"))
        self._count_answers(choices)
        merged = {**bodies[0], "model": self._model, **self._about}
        if self._several:
            merged["choices"] = sorted(choices, key=lambda choice: int(choice["index"]))
            merged["usage"] = self._usage
        return merged

    async def events(self) -> AsyncIterator[str]:
        """The lines of an answer that is streamed, part after part. The responses stay open."""
        try:
            for part, response in self._asked:
                self._is_last = response is self._asked[-1][1]
                usage = None
                async for line in self._upstream.lines(response):
                    if not line.startswith(DATA):
                        yield f"{line}\n"
                        continue
                    said = line.removeprefix(DATA).strip()
                    chunk = _chunk(said)
                    if chunk is None:
                        if said != END or self._is_last:
                            yield f"{line}\n"
                        continue
                    usage = chunk.get("usage") or usage
                    if (changed := self._changed(part, chunk)) is not None:
                        yield f"{DATA} {json.dumps(changed)}\n"
                self._count(usage)
        except UpstreamFailedError as error:  # the status has been sent already
            yield f"\n{event(error.body)}"
        except Exception as error:
            logger.exception("an answer could not be passed on")
            yield f"\n{event(problem_of(error)[1])}"

    @property
    def _several(self) -> bool:
        """Whether there are several parts."""
        return len(self._asked) > 1

    def _changed(self, part: Part, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """A part of a stream as it goes on to the client; None: it does not."""
        if "error" in chunk:
            return dict(json.loads(self._upstream.hiding_key(json.dumps(chunk))))
        chunk["model"] = self._model
        choices = self._numbered(part, chunk)
        self._count_answers([choice for choice in choices if choice.get("finish_reason")])
        fresh = {choice["index"] for choice in choices} - self._told
        if fresh:
            self._told |= fresh
            chunk |= self._about
        if self._several and not choices and isinstance(chunk.get("usage"), dict):
            if not self._is_last:
                return None
            chunk["usage"] = _sum(self._usage, chunk["usage"])
        return chunk

    def _numbered(self, part: Part, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The choices of ``body``, numbered as if all prompts had been asked together."""
        choices = body.get("choices")
        if not isinstance(choices, list):
            return []
        if self._several:
            wanted = part.body.get("n")
            each = wanted if isinstance(wanted, int) else 1  # answers to a prompt
            for choice in choices:
                number, of_prompt = divmod(int(choice["index"]), each)
                choice["index"] = part.numbers[number] * each + of_prompt
        return choices

    def _count_answers(self, choices: Sequence[object]) -> None:
        if choices:
            self._metrics.add("answers", len(choices), version=self._version)

    def _count(self, usage: Any) -> None:
        """Count the tokens that the upstream has counted for a part, if it says so."""
        if not isinstance(usage, dict):
            return
        self._usage = _sum(self._usage, usage)
        for kind in COUNTED:
            count = usage.get(f"{kind}_tokens")
            if isinstance(count, int):
                self._metrics.add("tokens", count, kind=kind)


async def close_all(asked: Sequence[tuple[Part, Response]]) -> None:
    """Close responses, so that the upstream ends what nobody waits for."""
    for _, response in asked:
        await response.aclose()


def _chunk(said: str) -> dict[str, Any] | None:
    """A part of a stream; None if it is none."""
    try:
        chunk = json.loads(said)
    except ValueError:
        return None
    return chunk if isinstance(chunk, dict) else None


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of both, added up."""
    counts = {name: count for name, count in other.items() if isinstance(count, int)}
    return {**one, **{name: one.get(name, 0) + count for name, count in counts.items()}}
