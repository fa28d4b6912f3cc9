"""Files that commands write where the user says."""

from __future__ import annotations

from pathlib import Path

from editcli.errors import UsageError
from editors import EditorError


def writable(target: Path, example: str, *, force: bool) -> Path:
    """Where to write ``target``: a link stays one, and what it leads to is written.

    ``example``: a name that such a file could have, for a message.

    Raises:
        UsageError: ``target`` is no file, or its folder is not there.
        EditorError: it exists, and not ``force``.
    """
    path = target.resolve()
    if path.exists() and not path.is_file():
        raise UsageError(f"{target} is not a file", f"name a file to write, such as {example}")
    if path.exists() and not force:
        raise EditorError(f"{target} exists", "`--force` overwrites it")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", f"`mkdir -p {target.parent}`")
    return path
