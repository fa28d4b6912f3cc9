"""Stands in for :mod:`editors.schema` in a bundle, where there is no pydantic.

Facts and settings were validated when the edits were made, so records are plain dataclasses here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

String = Text = str
Texts = tuple[str, ...]
Whole = int
Number = float
ValidationInfo = object


class Unused:
    """In place of a part of pydantic; may be made with any arguments."""

    def __init__(self, *_: Any, **__: Any) -> None: ...


AfterValidator = Field = TypeAdapter = Unused


def record(*_: Any) -> Callable[[type[T]], type[T]]:
    """A decorator that makes a frozen dataclass."""
    return dataclass(frozen=True, slots=True)


def field_validator(*_: Any, **__: Any) -> Callable[[T], T]:
    """A decorator that leaves a validator unused."""
    return lambda validator: validator


model_validator = field_validator


def without_nulls(value: Any) -> Any:
    """``value`` without the keys whose value is null, and with tuples for lists."""
    if isinstance(value, Mapping):
        return {key: without_nulls(v) for key, v in value.items() if v is not None}
    return tuple(map(without_nulls, value)) if isinstance(value, list | tuple) else value


def kind_of(value: object) -> str:
    """The type of ``value``, for messages."""
    return type(value).__name__


def settings_from(cls: type[T], _: str, values: Mapping[str, Any]) -> T:
    """The settings with all their ``values``."""
    return cls(**values)
