"""The weights in a folder: which files are to be read, or why none of them are.

transformers takes the first kind of file that it finds. A stale file beside the right ones would be
read without a word, so what is not clear is refused here.
"""

from __future__ import annotations

import json
from pathlib import Path

from editcli.wording import counted, listed
from editors import EditorError

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD, PICKLED = "model-*-of-*.safetensors", "pytorch_model*.bin"
SHOWN = 4  # names of files in an error


def has_weights(folder: Path) -> bool:
    """Whether the folder holds weights of a model in any form, whole or not."""
    patterns = (ONE, INDEX, SHARD, PICKLED)
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def weight_files(folder: Path, shown: str) -> list[Path]:
    """The safetensors files of the model in ``folder``, which errors call ``shown``.

    Raises:
        EditorError: there are none, some that the index names are missing, a whole file and an
            index name different weights, or the weights are pickled.
    """
    one, index = folder / ONE, folder / INDEX
    if not index.is_file():
        if one.is_file():
            return [one]
        raise _none(folder, shown)
    named = _named(index, shown)
    if one.is_file() and ONE not in named:
        raise EditorError(
            f"{shown} holds weights twice: {ONE}, and {counted(len(named), 'file')} that {INDEX} "
            "names",
            f"delete the older: {ONE}, or {INDEX} with its files",
        )
    missing = [name for name in named if not (folder / name).is_file()]
    if missing:
        raise EditorError(
            f"{shown} lacks {len(missing)} of the {counted(len(named), 'file')} that {INDEX} "
            f"names: {listed(missing, SHOWN)}",
            "fetch the missing files again",
        )
    return [folder / name for name in named]


def _named(index: Path, shown: str) -> list[str]:
    try:
        files = json.loads(index.read_bytes())["weight_map"].values()
        return sorted(dict.fromkeys(map(str, files)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EditorError(
            f"{shown}: {INDEX} cannot be read, or has no weight_map", "fetch the file again"
        ) from error


def _none(folder: Path, shown: str) -> EditorError:
    if shards := sorted(path.name for path in folder.glob(SHARD)):
        return EditorError(
            f"{shown} holds {listed(shards, SHOWN)}, and no {INDEX}", "fetch that file, too"
        )
    if pickled := sorted(path.name for path in folder.glob(PICKLED)):
        return EditorError(
            f"the weights of {shown} are pickled, and a pickle can run code when it is read: "
            f"{listed(pickled, SHOWN)}",
            "convert them in Python, if you trust where they are from: "
            "load the model, and `model.save_pretrained(NEW_FOLDER)` writes .safetensors; the "
            "tokenizer alike",
        )
    return EditorError(
        f"{shown} holds no weights", f"a base has its weights in {ONE}, or in files of {INDEX}"
    )
