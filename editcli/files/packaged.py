"""The data files that ship with editcli."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import editcli
from editors import EditorError


def datasets_dir() -> Path:
    """The folder of packaged data; raises EditorError when the installation lacks it.

    The packaged copy is looked up first: beside an installed ``editcli`` a folder called
    ``datasets`` is Hugging Face's package, so the sibling counts only where it is no Python
    package, as in a checkout.
    """
    packaged = Path(str(files("editcli"))) / "_datasets"
    if packaged.is_dir():
        return packaged
    sibling = Path(editcli.__file__).parents[1] / "datasets"
    if sibling.is_dir() and not (sibling / "__init__.py").exists():
        return sibling
    raise EditorError(
        f"the data files of editcli {editcli.__version__} are not installed",
        "`pip install --force-reinstall editcli`",
    )


class ShippedCalibrations:
    """Calibrations of scope signals that ship with editcli, each under the key of its recipe."""

    def get(self, key: str) -> bytes | None:
        path = datasets_dir() / "calibrations" / f"{key}.safetensors"
        return path.read_bytes() if path.is_file() else None

    def put(self, key: str, payload: bytes) -> None:
        """Another base's: it is in the store that it was made for."""
