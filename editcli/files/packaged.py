"""The data files that ship with editcli."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import editcli
from editors import EditorError


def datasets_dir() -> Path:
    """The folder of packaged data; raises EditorError when the installation lacks it.

    The packaged copy is looked up first. In a checkout the data are in ``datasets`` beside
    ``editcli``; beside an installed ``editcli``, a folder of that name is Hugging Face's package,
    which has no such file.
    """
    package = Path(editcli.__file__).parent
    for folder in (package / "_datasets", package.parent / "datasets"):
        if (folder / "calibration.jsonl").is_file():
            return folder
    raise EditorError(
        f"the data files of editcli {editcli.__version__} are not installed",
        "`pip install --force-reinstall editcli`",
    )


class ShippedCalibrations:
    """The calibrations of scope signals that ship with editcli: a cache that is only read."""

    def get(self, key: str) -> bytes | None:
        path = datasets_dir() / "calibrations" / f"{key}.safetensors"
        return path.read_bytes() if path.is_file() else None

    def put(self, key: str, payload: bytes, made_from: Collection[str] | None = None) -> None:
        """Keep nothing: the store of another base holds its calibration."""
