"""The files that a base consists of, and which of them have changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from editcli.models.adapters import IGNORE, WEIGHTS, adapter_in
from editcli.models.locations import ModelLocation
from editcli.models.weight_files import weight_files
from editcli.store.files.digests import Digests

OF_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja"),
)
BELOW = "base/"


def base_files(location: ModelLocation, adapter: str) -> dict[str, Path]:
    """The files with the weights, the adapter and the tokenizer, by name; those of the base that an
    adapter names, ``base/`` before the name. ``adapter``: what the user said of an adapter beside
    weights, "use" or "ignore"; empty if nothing.

    Raises:
        EditorError: weights are missing, or whether an adapter is part of the base is not said.
    """
    merging = adapter_in(location, adapter)
    if merging is None:
        return {path.name: path for path in (*_weights(location), *_of_tokenizer(location))}
    below = BELOW if merging.base != location else ""
    own = "" if merging.tokenizer != merging.base else below
    return {
        **{f"{below}{path.name}": path for path in _weights(merging.base)},
        WEIGHTS: merging.folder / WEIGHTS,
        **{f"{own}{path.name}": path for path in _of_tokenizer(merging.tokenizer)},
    }


def _weights(location: ModelLocation) -> list[Path]:
    if location.gguf:
        return [Path(location.path)]
    return weight_files(local_folder(location), location.shown)


def _of_tokenizer(location: ModelLocation) -> list[Path]:
    if location.gguf:  # in the file with the weights
        return []
    folder = local_folder(location)
    return [path for name in OF_TOKENIZER if (path := folder / name).is_file()]


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


def differing(recorded: Mapping[str, str], found: Mapping[str, str], adapter: str) -> list[str]:
    """What is wrong with the files of a base, one sentence each. ``adapter`` as
    :func:`base_files`."""
    problems = []
    knows_base = any(name.startswith(BELOW) for name in recorded)
    for name, digest in recorded.items():
        if name == WEIGHTS and adapter == IGNORE:  # before release 0.3, it was counted
            continue
        if name not in found:
            problems.append(f"{name} is missing")
        elif found[name] != digest:
            problems.append(
                f"{name} has the SHA-256 {found[name][:12]}, and {digest[:12]} is recorded"
            )
    new = [name for name in found if name not in recorded]
    # Stores made before release 0.3 do not have the base below an adapter.
    new = [name for name in new if knows_base or not name.startswith(BELOW)]
    return [*problems, *(f"{name} is there, and not recorded" for name in new)]
