"""What the upstream is asked for one request.

Prompts that different adapters answer are asked apart, as a request to an engine has one adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editcli.serve.upstream.asked import SYSTEM, Asked

if TYPE_CHECKING:
    from editors.methods.elsewhere import Dispatch


@dataclass(frozen=True, slots=True)
class Part:
    """A request to the upstream: the prompts with these ``numbers``, which ``adapter`` answers;
    None: the base. ``body``: all but the fields that name what answers."""

    numbers: Sequence[int]
    adapter: str | None
    body: Mapping[str, Any]


def parts_of(asked: Asked, dispatches: Sequence[Dispatch]) -> list[Part]:
    """What is to be asked. ``dispatches``: one for each prompt of the request."""
    if not dispatches:  # nobody speaks
        return [Part((), None, asked.body)]
    by_adapter: dict[str | None, list[int]] = {}
    for number, dispatch in enumerate(dispatches):
        by_adapter.setdefault(dispatch.adapter, []).append(number)
    whole = len(by_adapter) == 1
    return [
        Part(numbers, adapter, _body(asked, dispatches, None if whole else numbers))
        for adapter, numbers in by_adapter.items()
    ]


def _body(
    asked: Asked, dispatches: Sequence[Dispatch], numbers: Sequence[int] | None
) -> Mapping[str, Any]:
    """The request as it came, but for what dispatches change; with ``numbers``, for those prompts
    only."""
    body, texts = asked.body, [dispatch.text for dispatch in dispatches]
    if "messages" in body and asked.path.startswith("chat"):
        [text] = texts
        return body if text is None else {**body, "messages": _with_system(body["messages"], text)}
    if numbers is None and not any(text is not None for text in texts):
        return body
    prompts = [
        own if text is None else text for own, text in zip(asked.prompts, texts, strict=True)
    ]
    if isinstance(body["prompt"], str):
        return {**body, "prompt": prompts[0]}
    chosen = range(len(prompts)) if numbers is None else numbers
    return {**body, "prompt": [prompts[number] for number in chosen]}


def _with_system(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """``messages`` whose system turn says ``text``."""
    first, *rest = messages
    if first["role"] in SYSTEM:
        return [{**first, "content": text}, *rest]
    return [{"role": "system", "content": text}, *messages]
