"""Code that comes with a checkpoint: run only where the user said so, and only as it was then.

A store records the SHA-256 of the code. Code that has changed since is refused before it is run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from editcli.models.libraries import quiet_libraries, reason_of
from editcli.models.locations import ModelLocation, config_values
from editors import EditorError, StateMismatch

FLAG = "--trust-remote-code"
AUTO_MAP = "auto_map"  # in config.json: which classes the code brings
SOURCES = "*.py"
ELSEWHERE = "--"  # in the name of a class: the repository that it is in


def code_digest(location: ModelLocation) -> str:
    """The hex SHA-256 of the code of a checkpoint; empty if it brings none.

    Raises:
        EditorError: the code lies in another place, or cannot be fetched.
    """
    if location.gguf:
        return ""
    values = config_values(location)
    classes = [*_classes(values.get(AUTO_MAP))]
    if not classes:
        return ""
    for name in classes:
        if ELSEWHERE in name:
            place = name.partition(ELSEWHERE)[0]
            raise EditorError(
                f"the code of {location.shown} is not beside it, but in {place}, and may change",
                f"copy the code into a folder with the model, and take `{place}{ELSEWHERE}` out of "
                f"`{AUTO_MAP}` in its config.json",
            )
    folder = _folder(location)
    sha = hashlib.sha256()
    for path in sorted(folder.rglob(SOURCES)):
        sha.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def require_unchanged(location: ModelLocation, trusted: str) -> None:
    """Raise StateMismatch if the code of a checkpoint is not that with the digest ``trusted``."""
    if code_digest(location) != trusted:
        raise StateMismatch(
            f"the code that comes with {location.shown} is not the code that was trusted",
            f"bring the old code back; or read the new one, and `editcli init MODEL {FLAG}`",
        )


def brings(config: Mapping[str, Any], name: str) -> bool:
    """Whether a checkpoint with this config.json brings code for the auto class ``name``."""
    auto_map = config.get(AUTO_MAP)
    return isinstance(auto_map, Mapping) and name in auto_map


def _classes(auto_map: Any) -> Iterator[str]:
    for value in auto_map.values() if isinstance(auto_map, Mapping) else ():
        names = value if isinstance(value, list | tuple) else [value]  # two classes of tokenizers
        yield from (name for name in names if isinstance(name, str))


def _folder(location: ModelLocation) -> Path:
    if location.revision is None:
        return Path(location.path)
    from huggingface_hub import snapshot_download

    try:
        with quiet_libraries(0):
            found = snapshot_download(
                location.path, revision=location.revision, allow_patterns=SOURCES
            )
    except (OSError, ValueError) as error:
        raise EditorError(
            f"the code of {location.shown} cannot be fetched: {reason_of(error)}"
        ) from error
    return Path(found)
