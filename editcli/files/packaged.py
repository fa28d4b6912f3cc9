"""Where the data files that ship with editcli are."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import editcli
from editors import EditorError


def datasets_dir() -> Path:
    """The folder of packaged data; raises EditorError when the installation lacks it.

    The packaged copy is looked up first: beside an installed `editcli` a folder called `datasets`
    is Hugging Face's package, so the sibling counts only where it is no Python package, as in a
    checkout.
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
