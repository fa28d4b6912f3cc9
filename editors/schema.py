"""Validation of records: facts, conflicts and settings.

Records are pydantic dataclasses. :func:`record` makes one that raises an error of this package,
with every problem of the value in plain words. Other modules take the parts of pydantic that they
need from here, as :mod:`editors.exports.trusted_schema` stands in for this module where there is no
pydantic.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from typing import Annotated, Any, TypeVar, cast, dataclass_transform, get_args

from pydantic import (
    AfterValidator,
    AllowInfNan,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from editors.errors import EditorError
from editors.text_matching.encodable import is_unicode

__all__ = [
    "AfterValidator",
    "Field",
    "Number",
    "String",
    "Text",
    "Texts",
    "TypeAdapter",
    "ValidationInfo",
    "Whole",
    "field_validator",
    "kind_of",
    "model_validator",
    "plain_json",
    "problems",
    "record",
    "settings_from",
    "unknown_key",
    "without_nulls",
]

T = TypeVar("T")

NESTED = 4  # levels of a record: an object, a list in it, objects in the list, and their values


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    if not is_unicode(value):
        raise ValueError("must be valid Unicode (it holds half of a surrogate pair)")
    return value


String = Annotated[str, Strict()]
Text = Annotated[String, AfterValidator(_text)]
"""Text that is not empty and can be written as UTF-8."""

Texts = tuple[Text, ...]
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), AllowInfNan(False)]


@dataclass_transform(frozen_default=True)
def record(error: type[EditorError], hint: str = "") -> Callable[[type[T]], type[T]]:
    """Make a frozen dataclass that raises ``error``, with every problem listed, for values that
    break its schema."""

    def decorate(cls: type[T]) -> type[T]:
        checked: Any = dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))(cls)
        init = checked.__init__

        @wraps(init)
        def explained(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                init(self, *args, **kwargs)
            except ValidationError as problem:
                raise error("; ".join(problems_of(checked, problem)), hint) from None

        checked.__init__ = explained
        return cast("type[T]", checked)

    return decorate


def problems(cls: type[Any], value: Mapping[str, object]) -> list[str]:
    """Every problem that keeps ``value``, a parsed JSON object, from being a record of ``cls``."""
    try:
        TypeAdapter(cls).validate_python(without_nulls(value))
    except ValidationError as problem:
        return problems_of(cls, problem)
    return []


def without_nulls(value: Any, depth: int = NESTED) -> Any:
    """``value`` without the keys whose value is null, as null means absent. Values that are nested
    deeper than ``depth`` levels stay unchanged."""
    if depth == 0:
        return value
    if isinstance(value, Mapping):
        return {str(k): without_nulls(v, depth - 1) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(v, depth - 1) for v in value]
    return value


def problems_of(cls: type[Any], error: ValidationError) -> list[str]:
    """The problems in a pydantic ``error`` about ``cls``, each as "key: what is wrong"."""
    names = [field.name for field in fields(cls)]
    messages = (_problem(cls, names, detail) for detail in error.errors(include_url=False))
    return list(dict.fromkeys(messages))


def _problem(cls: type[Any], names: list[str], detail: ErrorDetails) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    location = list(detail["loc"])
    if location and isinstance(location[0], int):  # a positional argument
        location[0] = names[location[0]]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        *above, key = location
        where = f"{_path(above)}: " if above else ""
        return where + unknown_key(str(key), _keys_at(cls, above))
    path = _path(location)
    if kind == "missing":
        return f"{path}: is required"
    if kind == "value_error":
        message = str(context["error"])
        return path + message if message.startswith(".") or not path else f"{path}: {message}"
    if kind == "literal_error":
        return f"{path}: must be {context['expected']}, not {value!r}"
    expected = {
        "string_type": "text",
        "tuple_type": "a list",
        "dataclass_type": "an object",
        "dict_type": "an object",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
    }.get(kind)
    if expected:
        return f"{path}: must be {expected}, not {kind_of(value)}"
    requirement = detail["msg"].removeprefix("Input should ")
    return f"{path}: must {requirement}, not {value!r}"


def _path(location: list[Any]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")


def _keys_at(cls: type[Any], location: list[Any]) -> tuple[str, ...]:
    """The keys that the record at ``location`` inside ``cls`` may have."""
    for step in location:
        if isinstance(step, str):
            annotation = cls.__pydantic_fields__[step].annotation
            cls = next(t for t in _types_in(annotation) if hasattr(t, "__pydantic_fields__"))
    return tuple(field.name for field in fields(cls))


def _types_in(annotation: Any) -> list[Any]:
    inner = [t for part in get_args(annotation) for t in _types_in(part)]
    return [annotation, *inner]


def unknown_key(key: str, known: tuple[str, ...]) -> str:
    """The message about an unknown key, with the most similar of the ``known`` keys."""
    close = get_close_matches(key, known, n=1)
    return f"unknown key {key!r}" + (f" (did you mean {close[0]!r}?)" if close else "")


def kind_of(value: object) -> str:
    """The JSON type of ``value``, for messages."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return "text"
    return "an object" if isinstance(value, Mapping) else "a list"


def plain_json(value: object) -> str:
    """``value`` as JSON text; raises ValueError if it is no plain JSON or no valid Unicode."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ValueError("must be plain JSON") from None
    return _text(text)


def settings_from(cls: type[T], owner: str, values: Mapping[str, Any]) -> T:
    """The settings of ``owner`` (named in errors): ``values`` over the defaults of ``cls``.

    ``cls`` may have ``PROFILES``: by name, values that override the defaults. ``values`` override
    both; ``values["profile"]`` chooses the profile.

    Raises:
        EditorError: an unknown name, or a value of the wrong type or range.
    """
    profiles: Mapping[str, Mapping[str, Any]] = getattr(cls, "PROFILES", {})
    profile = profiles.get(str(values.get("profile")), {})
    known = tuple(field.name for field in fields(cast("Any", cls)))
    problems_found = [unknown_key(key, known) for key in values if key not in known]
    chosen = {key: value for key, value in {**profile, **values}.items() if key in known}
    try:
        settings = TypeAdapter(cls).validate_python(chosen)
    except ValidationError as problem:
        problems_found += problems_of(cls, problem)
    if problems_found:
        raise EditorError(
            f"{owner} cannot take these settings: {'; '.join(problems_found)}",
            f"settings: {', '.join(known)}",
        )
    return settings
