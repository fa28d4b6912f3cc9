"""The files that a base consists of, and which of them have changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from editcli.models.adapters import IGNORE
from editcli.models.locations import ModelLocation
from editcli.models.weight_files import weight_files
from editcli.store.files.digests import Digests

OF_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja"),
)
OF_ADAPTER = ("adapter_model.safetensors",)


def base_files(location: ModelLocation, adapter: str) -> dict[str, Path]:
    """The files with the weights, the adapter and the tokenizer, by name. ``adapter``: "ignore"
    where one that lies beside the weights is no part of the base.

    Raises:
        EditorError: weights are missing.
    """
    if location.gguf:
        return {Path(location.path).name: Path(location.path)}
    folder = local_folder(location)
    of_adapter = OF_ADAPTER if adapter != IGNORE else ()
    others = [folder / name for name in (*of_adapter, *OF_TOKENIZER)]
    weights = weight_files(folder, location.shown) if not _adapter_alone(folder) else []
    return {path.name: path for path in (*weights, *others) if path.is_file()}


def local_folder(location: ModelLocation) -> Path:
    """The folder with the files; of a Hub id, in the cache of the Hub."""
    if location.revision is None:
        return Path(location.path)
    from transformers.utils import cached_file

    config = cached_file(location.path, "config.json", revision=location.revision)
    return Path(str(config)).parent


def digests_of(location: ModelLocation, adapter: str, digests: Digests) -> dict[str, str]:
    """The SHA-256 of each of :func:`base_files`, by name."""
    files = base_files(location, adapter)
    return {name: digests.of(path.resolve()) for name, path in files.items()}


def differing(recorded: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What is wrong with the files of a base, one sentence each."""
    problems = []
    for name, digest in recorded.items():
        if name not in found:
            problems.append(f"{name} is missing")
        elif found[name] != digest:
            problems.append(
                f"{name} has the SHA-256 {found[name][:12]}, it was {digest[:12]} at `init`"
            )
    problems += [f"{name} was not there at `init`" for name in found if name not in recorded]
    return problems


def _adapter_alone(folder: Path) -> bool:
    return any((folder / name).is_file() for name in OF_ADAPTER) and not any(
        folder.glob("model*.safetensors")
    )
