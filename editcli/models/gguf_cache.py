"""Dequantised copies of GGUF files: each is made once, and kept in a folder of the user's.

A copy is known by the SHA-256 of the file, so that it does not matter where the file lies, and by
the releases of the libraries that read it. The whole file is hashed: that takes less time than
loading the copy, and a sample would miss a changed tensor.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from editcli.models.gguf_conversion import convert, read_config, read_tokenizer
from editcli.models.gguf_files import GgufFile
from editcli.models.libraries import reason_of, require
from editcli.models.locations import ModelLocation
from editcli.settings import CACHE_VARIABLE, cache_folder
from editors import EditorError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LAYOUT = 1  # raised when the same libraries would make another copy of a file
RECORD = "conversion.json"  # in a copy: what it was made of, and the sizes of its files
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""The dtypes of a copy, and the bytes of a weight."""
DIGITS = 16  # of the file's hash, in the name of a copy
NEEDED_BY = "a GGUF file"
CHAT_TEMPLATE = "tokenizer.chat_template"  # in a header

Tell = Callable[[str], None]
"""Takes a message about what takes long."""


def dequantised(location: ModelLocation, dtype: str, tell: Tell) -> tuple[ModelLocation, str]:
    """Where the copy of a GGUF file in ``dtype`` is, made if it is not there; and the hex SHA-256
    of the file.

    Processes that want the same copy wait for the one that makes it. A copy appears whole or not at
    all.

    Raises:
        EditorError: the file cannot be read or converted, or a package or room is lacking.
    """
    _require_packages()
    with _explained(f"reading {location.shown}"), open(location.path, "rb") as file:
        source = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / "gguf" / _name(source, dtype)
    if not _is_whole(folder):
        hint = f"`{CACHE_VARIABLE}=FOLDER` names another place"
        with _explained(f"dequantising {location.shown} into {folder}", hint):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not _is_whole(folder):  # another process may have made it meanwhile
                    _make(folder, location, source, dtype, tell)
    return ModelLocation(location.shown, str(folder)), source


def outline(location: ModelLocation) -> tuple[Any, bool]:
    """The configuration of the model in a GGUF file, and whether it has a chat template; nothing is
    dequantised.

    Raises:
        EditorError: the file cannot be read, or a package is lacking.
    """
    _require_packages()
    file = GgufFile.open(Path(location.path))
    with _explained(f"reading {location.shown}"):
        return read_config(file, location.shown), CHAT_TEMPLATE in file.metadata


def tokenizer_of(location: ModelLocation) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file; nothing is dequantised. Raises the errors of
    :func:`outline`."""
    _require_packages()
    file = GgufFile.open(Path(location.path))
    with _explained(f"reading {location.shown}"):
        return read_tokenizer(file)


def _require_packages() -> None:
    for package in ("gguf", "accelerate"):
        require(package, NEEDED_BY, "gguf")


def _name(source: str, dtype: str) -> str:
    libraries = [f"{name}-{metadata.version(name)}" for name in ("transformers", "gguf")]
    return "-".join([source[:DIGITS], dtype, *libraries, str(LAYOUT)])


def _make(folder: Path, location: ModelLocation, source: str, dtype: str, tell: Tell) -> None:
    file = GgufFile.open(Path(location.path))
    _require_all(file, location.shown)
    needed = BYTES[dtype] * sum(tensor.size for tensor in file.tensors)
    needed += Path(location.path).stat().st_size  # of the parts, while they are read
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise EditorError(
            f"dequantising {location.shown} takes {_mb(needed)} in {folder.parent}, "
            f"where {_mb(free)} are free",
            f"`{CACHE_VARIABLE}=FOLDER` names another place",
        )
    tell(f"dequantising {location.shown}, once for all stores")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for old in (unfinished, folder):  # of a process that was killed; with files missing
        shutil.rmtree(old, ignore_errors=True)
    try:
        unfinished.mkdir()
        convert(file, unfinished, dtype, location.shown)
        sizes = {path.name: path.stat().st_size for path in unfinished.iterdir()}
        record = {"source": source, "name": Path(location.path).name, "files": sizes}
        (unfinished / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    tell(f"dequantised into {folder}, {_mb(sum(sizes.values()))}")


def _is_whole(folder: Path) -> bool:
    """Whether the copy is there, with all of its files. A power cut can leave shorter ones."""
    with suppress(OSError, ValueError, KeyError):
        files = json.loads((folder / RECORD).read_bytes())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    return False


def _require_all(file: GgufFile, shown: str) -> None:
    """Raise EditorError if the file ends before its last tensor does, as after a broken download,
    or if its values are of an unknown type."""
    from gguf import GGML_QUANT_SIZES

    end = file.data_start
    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    for tensor in file.tensors:
        if tensor.kind not in sizes:
            raise EditorError(
                f"{shown} holds values of an unknown type: {tensor.kind}, in {tensor.name}",
                "`pip install --upgrade gguf transformers` if the file is newer",
            )
        values, size = sizes[tensor.kind]
        end = max(end, file.data_start + tensor.start + tensor.size // values * size)
    there = file.path.stat().st_size
    if there < end:
        raise EditorError(
            f"{shown} is cut short: {there:,} of {end:,} bytes are there", "fetch the file again"
        )


@contextmanager
def _explained(what: str, hint: str = "") -> Iterator[None]:
    """Turn what libraries and the system raise inside ``with`` into an EditorError."""
    try:
        yield
    except EditorError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise EditorError(f"{what} failed: {reason}", hint) from error
    except Exception as error:  # each library has its own; to the user all mean the same
        raise EditorError(
            f"{what} failed: {reason_of(error)}",
            "`pip install --upgrade transformers gguf` if the file is newer, or name a folder that "
            "`save_pretrained` wrote",
        ) from error


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
