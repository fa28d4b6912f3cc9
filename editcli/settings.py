"""Settings from the environment and from `--set key=value`.

A flag wins over its `EDITCLI_*` variable, which wins over the default. Typer does that for options;
`env_flag` reads the few that have no option.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from editcli.errors import UsageError
from editors import EditorError

CACHE_VARIABLE = "EDITCLI_CACHE"
"""The folder of caches: copies of GGUF files, and digests of files."""

Setting = str | int | float | bool

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_HINT = "`--set key=value`, once for each setting"


def env_flag(env: Mapping[str, str], name: str) -> bool:
    """Whether the variable `name` is on: set, and none of "", 0, false, no and off."""
    return env.get(name, "").strip().lower() not in ("", "0", "false", "no", "off")


def cache_folder() -> Path:
    """The folder of caches: that of the variable `CACHE_VARIABLE`, else one where caches are."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a path which is not absolute is to be ignored.
    home = Path(caches) if os.path.isabs(caches) else Path.home() / ".cache"
    return home / "editcli"


def current_folder() -> Path:
    """The current folder. Raises EditorError where it is gone."""
    try:
        return Path.cwd()
    except OSError as error:
        raise EditorError("the current folder is gone", "`cd` to another one") from error


def parse_settings(pairs: Sequence[str]) -> dict[str, Setting]:
    """Typed values of `key=value` pairs; hyphens in keys count as underscores.

    Raises UsageError for a pair without "=", a malformed key or a key given twice.
    """
    settings: dict[str, Setting] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        key = name.strip().replace("-", "_")
        if not equals or not _KEY.fullmatch(key):
            raise UsageError(f"cannot read the setting {pair!r}", _HINT)
        if key in settings:
            raise UsageError(f"the setting {key!r} is given twice", _HINT)
        settings[key] = parse_value(value.strip())
    return settings


def parse_value(text: str) -> Setting:
    """`text` as the bool, int, float or str it looks like; double quotes keep it a str."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    with suppress(ValueError):
        return str(json.loads(text)) if text.startswith('"') else text
    return text
