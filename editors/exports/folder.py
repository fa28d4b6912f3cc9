"""A folder that holds the edits of one version, which other programs can load without a store.

    edit_config.json    the base, the method's seed, the edited block
    edits/              facts, and what the method knows, as in a store
    edits/encoder/      the sentence encoder of the scope, if it has one

The name ``adapter_config.json`` is not used: transformers takes a file of that name for an adapter
of PEFT.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from editors.errors import EditorError, StateMismatch
from editors.exports.loaded_model import LoadedModel
from editors.methods.base import Method
from editors.methods.edit_state import EditState
from editors.methods.registry import METHODS
from editors.model.base_model import Base

FORMAT = 1
CONFIG = "edit_config.json"
EDITS = "edits"
DTYPES = ("float32", "bfloat16", "float16")  # others are of packed weights
ENCODER = "encoder"


@dataclass(frozen=True, slots=True)
class EditConfig:
    """What is to know of an export besides its edits.

    ``base_model_name_or_path``: of the base, with its ``revision`` if it is a Hub id; ``dtype``: of
    its weights; ``layer``: the edited block; ``method`` and ``seed``: how the edits were made;
    ``version``: which version of a store it was; ``editcli_version``: the release that wrote it;
    ``adapter``: the SHA-256 of an adapter that has to be merged into the base, empty if none has.
    """

    base_model_name_or_path: str
    revision: str
    dtype: str
    layer: int
    method: str
    seed: int
    version: str
    editcli_version: str
    adapter: str = ""
    format: int = FORMAT

    @staticmethod
    def read(folder: Path) -> EditConfig:
        """The configuration of the export in ``folder``.

        Raises:
            EditorError: the folder has none, or it cannot be read.
        """
        try:
            values: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            if values.get("format") != FORMAT:
                raise EditorError(
                    f"{folder} has export format {values.get('format')!r}, and this release reads "
                    f"format {FORMAT}",
                    "`pip install --upgrade editcli`",
                )
            return EditConfig(**values)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise EditorError(
                f"{folder} is not an export with edits: {error}", "`editcli export` makes one"
            ) from error

    def write(self, folder: Path) -> None:
        """Write it into ``folder``, which is made if it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def write_edits(
    method: Method[Any, Any], state: EditState, config: EditConfig, folder: Path
) -> None:
    """Write the edits ``state``, a loaded state of ``method``, into ``folder``, and all that
    answering needs besides the base."""
    config.write(folder)
    edits = folder / EDITS
    edits.mkdir()
    base = method.base
    # A base from a GGUF file is known by that file; an export also fits the weights alone. An
    # adapter is merged anew when an export is loaded, and the last bits may be others then.
    known_by = base if config.adapter else replace(base, source="")
    for name, data in method.save(replace(state, fingerprint=known_by.fingerprint())).items():
        (edits / name).write_bytes(data)
    encoder = method.other_model(state)
    if encoder is not None:
        link_files(encoder, edits / ENCODER)


def opened(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    source: str = "",
) -> LoadedModel:
    """``model`` with the edits in ``folder`` attached. ``source``: that of the
    :class:`~editors.model.base_model.Base`, for edits of a base with an adapter.

    Raises:
        StateMismatch: the model is not the base of the edits, or a file is damaged.
        EditorError: a file is missing.
    """
    config = EditConfig.read(folder)
    try:
        files = [path for path in (folder / EDITS).iterdir() if path.is_file()]
        blobs = {path.name: path.read_bytes() for path in files}
    except OSError as error:
        raise EditorError(f"the edits in {folder} cannot be read: {error.strerror}") from error
    state = EditState.from_blobs(blobs)
    if state.method != config.method:
        raise StateMismatch(f"{folder} holds edits of {state.method}, not of {config.method}")
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype != config.dtype and config.dtype in DTYPES:
        raise StateMismatch(
            f"these edits were made in {config.dtype}, and the model is in {dtype}",
            f"load it with `dtype={config.dtype!r}`",
        )
    base = Base.of(model, tokenizer, config.layer, source if config.adapter else "")
    method = METHODS.load(state.method).build(base, state.settings, config.seed)
    method.self_test()
    state = method.open(state)
    encoder = folder / EDITS / ENCODER
    return LoadedModel(
        method, method.with_other_model(state, encoder) if encoder.is_dir() else state
    )


def link_files(source: Path, target: Path, wanted: str = "*") -> None:
    """Link the files of the folder ``source`` whose names fit the pattern ``wanted`` into
    ``target``; copy what cannot be linked."""
    for path in _files(source, wanted):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), place)  # the Hub's cache holds links
        except OSError:  # another file system
            shutil.copyfile(path, place)


def _files(folder: Path, wanted: str) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob(wanted)) if path.is_file())
