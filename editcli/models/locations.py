"""Where a model is: the embedded one, a folder, or a Hub id at one commit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path

from editcli.files.packaged import datasets_dir
from editcli.models.libraries import quiet_libraries, reason_of
from editors import EditorError

ATLAS = "atlas"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[^\s@]+)?", re.ASCII)
_EMBEDDED = "`editcli init atlas` uses the embedded model"
_FOLDER = "a base is a folder written by `save_pretrained`, or a Hub id"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where a checkpoint is: a folder (no revision), or a Hub id. ``shown`` is for messages."""

    shown: str
    path: str
    revision: str | None = None


def resolve(name: str) -> tuple[str, str]:
    """What a store records for the base called ``name``: (base, revision).

    ``name`` is "atlas", a folder, or a Hub id with an optional ``@revision``. A folder becomes an
    absolute path without a revision; a Hub id gets the commit that its revision means today.

    Raises:
        EditorError: there is no such model, or the Hub was needed and cannot be reached.
    """
    location = find_model(name)
    if location.revision is None:
        return ATLAS if name == ATLAS else location.path, ""
    from transformers.utils import extract_commit_hash

    with quiet_libraries(0):
        commit = extract_commit_hash(hub_config(location), None)
    return location.path, commit or location.revision


def find_model(name: str, revision: str = "") -> ModelLocation:
    """Where the model called ``name`` is; a Hub id is not looked up. Raises EditorError."""
    if revision:
        return ModelLocation(f"{name}@{revision}", name, revision)
    if name == ATLAS:
        folder = datasets_dir() / ATLAS / "model"
        if not (folder / "config.json").is_file():
            raise EditorError(
                "the embedded model is not part of this installation",
                "`editcli init FOLDER` or `editcli init HUB_ID`",
            )
        return ModelLocation(ATLAS, str(folder))
    folder = Path(expanduser(name))
    if name and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise EditorError(f"{name} holds no config.json", _FOLDER)
        return ModelLocation(name, str(folder.resolve()))
    if not _HUB_ID.fullmatch(name):
        what = "no such folder" if name else "no model is named"
        raise EditorError(f"{what}: {name!r}", f"{_FOLDER}; {_EMBEDDED}")
    hub_id, _, wanted_revision = name.partition("@")
    return ModelLocation(name, hub_id, wanted_revision or "main")


def hub_config(location: ModelLocation) -> str:
    """The path of a Hub id's cached config.json, fetched if absent; raises EditorError with why
    not."""
    from huggingface_hub import errors
    from transformers.utils import cached_file

    try:
        return str(cached_file(location.path, "config.json", revision=location.revision))
    except OSError as error:
        cause = error.__cause__ or error
        known = {  # the first that fits: a gated model is also one that is not found
            errors.LocalEntryNotFoundError: (
                "is neither a folder nor in the Hub's cache, and the Hub cannot be reached",
                _EMBEDDED,
            ),
            errors.GatedRepoError: (
                "is gated on the Hub",
                "`hf auth login` with an account that has access",
            ),
            errors.RevisionNotFoundError: (
                "is not on the Hub: the model has no such revision",
                f"`{location.path}@REVISION` with another branch, tag or commit",
            ),
            errors.RepositoryNotFoundError: (
                "is neither a folder nor a model on the Hub that you may read",
                f"`hf auth login` for a private one; {_EMBEDDED}",
            ),
            BaseException: (f"cannot be fetched: {reason_of(cause)}", _EMBEDDED),
        }
        why, hint = next(known[kind] for kind in known if isinstance(cause, kind))
        raise EditorError(f"{location.shown} {why}", hint) from error
