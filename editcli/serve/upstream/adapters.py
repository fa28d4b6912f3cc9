"""How a request names the adapter that is to answer it.

An adapter that the upstream lacks is an error: the base would answer with what an edit has
corrected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

from editcli.serve.upstream.client import Upstream, UpstreamFailedError


class Adapters(Protocol):
    """The adapters of one upstream."""

    async def fields(self, adapter: str | None) -> dict[str, Any]:
        """The fields of a request that ``adapter`` is to answer; None: the base alone.

        Raises UpstreamFailedError if the upstream has no such adapter, or does not answer.
        """

    async def missing(self, adapters: Iterable[str]) -> list[str]:
        """Those of ``adapters`` that the upstream lacks; raises UpstreamFailedError."""


class ByName:
    """An adapter is a model of its name, as in vLLM."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._known: set[str] = set()

    async def fields(self, adapter: str | None) -> dict[str, Any]:
        if adapter is None:
            return {"model": await self._upstream.base_model()}
        if adapter not in self._known and await self.missing([adapter]):
            raise lacking(adapter)
        return {"model": adapter}

    async def missing(self, adapters: Iterable[str]) -> list[str]:
        self._known = set(await self._upstream.models())
        return [adapter for adapter in adapters if adapter not in self._known]


class LlamaCpp:
    """A request gives each adapter a weight, by its number. Which adapter has which number is
    asked each time, as the server may have been started anew.

    A request without weights would get those that the server was started with. And a server keeps
    what it has read of a prompt for the next one, whatever adapter read it (issue 26207 of
    llama.cpp), so nothing is to be kept.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def fields(self, adapter: str | None) -> dict[str, Any]:
        listed = await self._upstream.lora_adapters()
        chosen = [number for number, path in listed if adapter and _is_of(path, adapter)]
        if adapter and len(chosen) != 1:
            raise lacking(adapter)
        weights = [{"id": number, "scale": float(number in chosen)} for number, _ in listed]
        return {
            "model": await self._upstream.base_model(),
            "lora": weights,
            "cache_prompt": False,
        }

    async def missing(self, adapters: Iterable[str]) -> list[str]:
        paths = [path for _, path in await self._upstream.lora_adapters()]
        return [name for name in adapters if not any(_is_of(path, name) for path in paths)]


NAMINGS: dict[str, type[ByName] | type[LlamaCpp]] = {"name": ByName, "llama.cpp": LlamaCpp}
"""By what the user calls it."""


def lacking(adapter: str) -> UpstreamFailedError:
    """The error of an adapter that the upstream lacks."""
    return UpstreamFailedError.saying(
        f"the upstream has no adapter {adapter}, which is to answer this prompt: load it there "
        "from the folder that `editcli export V FOLDER --as lora` wrote",
        503,
        "adapter_missing",
    )


def _is_of(path: str, adapter: str) -> bool:
    """Whether the file at ``path`` is one of ``adapter``, by the name of the file or its folder."""
    name = re.compile(rf"(?<![0-9A-Za-z]){re.escape(adapter)}(?![0-9])")
    return any(map(name.search, re.split(r"[/\\]", path)[-2:]))
