"""The data files that ship with editcli."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import editcli
from editors import EditorError


def datasets_dir() -> Path:
    """The folder of packaged data; raises EditorError when the installation lacks it.

    The packaged copy is looked up first. In a checkout the data are in ``datasets`` beside
    ``editcli``; beside an installed ``editcli``, a folder of that name is Hugging Face's package.
    """
    packaged = Path(str(files("editcli"))) / "_datasets"
    if packaged.is_dir():
        return packaged
    in_checkout = Path(editcli.__file__).parents[1] / "datasets"
    if in_checkout.is_dir() and not (in_checkout / "__init__.py").exists():
        return in_checkout
    raise EditorError(
        f"the data files of editcli {editcli.__version__} are not installed",
        "`pip install --force-reinstall editcli`",
    )


class ShippedCalibrations:
    """The calibrations of scope signals that ship with editcli: a cache that is only read."""

    def get(self, key: str) -> bytes | None:
        path = datasets_dir() / "calibrations" / f"{key}.safetensors"
        return path.read_bytes() if path.is_file() else None

    def put(self, key: str, payload: bytes) -> None:
        """Keep nothing: the store of another base holds its calibration."""
