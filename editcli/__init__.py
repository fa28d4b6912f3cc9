"""Version control for what a language model believes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editors.exports.loaded_model import LoadedModel

__version__ = "0.2.0"


def load(
    place: str | Path, *, version: str = "HEAD", device: str = "auto", dtype: str = "auto"
) -> LoadedModel:
    """The edited model of ``version`` of the store in the folder ``place``; or, of a folder that
    `editcli export --as adapter` wrote, the edited model in it.

    ``device`` and ``dtype`` are what `--device` and `--dtype` take.

    Raises:
        EditorError: there is no such store, export or version, or the base cannot be loaded.
        StateMismatch: the base is another one than that of the edits.
        UnsupportedArchitecture: edits would not be answered reliably with the installed libraries.
    """
    from editcli.operations.python import load_model

    return load_model(Path(place), version, device, dtype)
