"""Adapters of PEFT: changes of a base's weights, in a folder of their own or beside weights.

An adapter is merged into the base that it names when that is loaded. transformers would use one
that lies beside weights if, and only if, the package peft can be imported. Here the user decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editcli.models.libraries import reason_of
from editcli.models.locations import ADAPTER_CONFIG, ModelLocation, find_model, json_in
from editcli.models.weight_files import has_weights
from editors import EditorError

if TYPE_CHECKING:
    from editors.model.base_model import Base

EXTRA = "peft"
WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json")
USE, IGNORE = "use", "ignore"
CHOICES = (USE, IGNORE)
CHOICE = (
    f"`editcli init MODEL --adapter {USE}` merges it into the weights, `--adapter {IGNORE}` takes "
    "the weights alone"
)
# In the configuration of an adapter, what does not change what it computes.
WHERE = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter of PEFT in ``folder``. ``base``: where the weights are that it changes."""

    folder: Path
    base: ModelLocation

    @property
    def tokenizer(self) -> ModelLocation:
        """Where its tokenizer is: beside the adapter, else beside the weights."""
        own = any((self.folder / name).is_file() for name in TOKENIZERS)
        return ModelLocation(str(self.folder), str(self.folder)) if own else self.base

    def digest(self) -> str:
        """The hex SHA-256 of its weights, and of its settings but where its base is."""
        values = json_in(self.folder / ADAPTER_CONFIG)
        settings = {key: value for key, value in values.items() if key not in WHERE}
        with (self.folder / WEIGHTS).open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
        text = f"{weights}\n{json.dumps(settings, sort_keys=True)}"
        return hashlib.sha256(text.encode()).hexdigest()


def adapter_in(location: ModelLocation, choice: str) -> Adapter | None:
    """The adapter that is part of the base at ``location``; None for weights alone.

    ``choice``: what the user said of an adapter beside weights, "use" or "ignore"; empty if the
    user has said nothing.

    Raises:
        EditorError: there are weights and an adapter, and no choice; or the adapter is incomplete,
            or the base that it names cannot be found.
    """
    if location.gguf:
        return None
    if not _lies_in(location):
        if choice == USE:
            raise EditorError(
                f"{location.shown} holds no {ADAPTER_CONFIG}", "leave `--adapter` out"
            )
        return None
    on_hub = location.revision is not None
    weights = on_hub or has_weights(Path(location.path))
    if weights and not choice:
        raise EditorError(
            f"{location.shown} holds weights, and an adapter of PEFT beside them: is it part of "
            "the base?",
            CHOICE,
        )
    if choice == IGNORE:
        if not weights:
            raise EditorError(
                f"{location.shown} holds an adapter of PEFT, and no weights beside it",
                "leave `--adapter ignore` out, or name the base without the adapter",
            )
        return None
    if on_hub:
        raise EditorError(
            f"{location.shown} is on the Hub, and an adapter is merged from a folder only",
            f"`hf download {location.path} --local-dir FOLDER`, then "
            f"`editcli init FOLDER --adapter {USE}`",
        )
    folder = Path(location.path)
    _require_weights(folder, location.shown)
    return Adapter(folder, location if weights else _base_of(folder, location.shown))


def _lies_in(location: ModelLocation) -> bool:
    """Whether there is an adapter at ``location``."""
    if location.revision is None:
        return Path(location.path, ADAPTER_CONFIG).is_file()
    from transformers.utils import cached_file

    quiet = ("gated_repo", "missing_entries", "connection_errors")
    options = {f"_raise_exceptions_for_{what}": False for what in quiet}
    found = cached_file(location.path, ADAPTER_CONFIG, revision=location.revision, **options)
    return found is not None


def _require_weights(folder: Path, shown: str) -> None:
    if (folder / WEIGHTS).is_file():
        return
    if (folder / PICKLED).is_file():
        raise EditorError(
            f"the adapter in {shown} is pickled, and a pickle can run code when it is read: "
            f"{PICKLED}",
            "save it once more with a newer release of peft, if you trust where it is from: "
            "`save_pretrained(FOLDER, safe_serialization=True)`",
        )
    raise EditorError(f"the adapter in {shown} has no {WEIGHTS}", "fetch the file again")


def _base_of(folder: Path, shown: str) -> ModelLocation:
    """Where the base is that the adapter in ``folder`` names."""
    values = json_in(folder / ADAPTER_CONFIG)
    name, revision = values.get("base_model_name_or_path"), values.get("revision")
    hint = f"write where it is into `base_model_name_or_path` in {folder / ADAPTER_CONFIG}"
    if not isinstance(name, str) or not name:
        raise EditorError(f"the adapter in {shown} names no base", hint)
    try:
        is_beside, is_here = (folder / name).is_dir(), Path(name).exists()
    except (OSError, ValueError) as error:  # too long, or with characters that no path has
        raise EditorError(f"the adapter in {shown} names no place: {name[:40]!r}", hint) from error
    if is_beside:
        name = str((folder / name).resolve())
    elif is_here and not Path(name).is_absolute():
        raise EditorError(
            f"the adapter in {shown} names its base by a path from the current folder: {name}",
            f"{hint}: {Path(name).resolve()}",
        )
    try:
        base = find_model(name)
    except EditorError as error:
        raise EditorError(
            f"the base of the adapter in {shown} cannot be found: {error.message}", hint
        ) from error
    if base.revision is not None and isinstance(revision, str) and revision:
        base = replace(base, revision=revision)
    if not base.gguf and _lies_in(base):
        raise EditorError(
            f"the base of the adapter in {shown} holds an adapter itself: {base.shown}",
            "merge that one first, or name a base without one",
        )
    return base


@contextmanager
def weights_alone() -> Iterator[None]:
    """Inside ``with``, transformers loads weights as if no adapter lay beside them."""
    from transformers.integrations import peft
    from transformers.models.auto import auto_factory

    places = (auto_factory, peft)
    finds = [place.find_adapter_config_file for place in places]
    for place in places:
        place.find_adapter_config_file = lambda *_, **__: None
    try:
        yield
    finally:
        for place, find in zip(places, finds, strict=True):
            place.find_adapter_config_file = find


def merged(base: Base, adapter: Adapter, shown: str) -> Base:
    """``base`` with ``adapter`` merged into its weights, which are changed. Errors call it
    ``shown``.

    What a sum of products is in its last bits depends on the machine. So the fingerprint follows
    from that of the base as it was and from the digest of the adapter.

    Raises:
        EditorError: the adapter does not fit the base, or cannot be merged.
    """
    from peft import PeftConfig, get_peft_model
    from safetensors import SafetensorError

    digest = adapter.digest()
    source = hashlib.sha256(f"{base.fingerprint()}\n{digest}".encode()).hexdigest()
    refused = EditorError(
        f"the adapter in {shown} cannot be merged into {adapter.base.shown}",
        "use the base that it was trained on; or merge it with peft, and use the merged model",
    )
    try:
        config = PeftConfig.from_pretrained(str(adapter.folder))
        if config.is_prompt_learning:
            raise ValueError(f"{config.peft_type.value} changes no weights")
        around = get_peft_model(base.model, config)
        _require_own_embeddings(base.model)
        loaded = around.load_adapter(str(adapter.folder), "default", torch_device=str(base.device))
        if unfit := [*loaded.unexpected_keys, *loaded.missing_keys]:
            raise ValueError(f"{len(unfit)} of its tensors do not fit, such as {unfit[0]}")
        model = around.merge_and_unload()
    except (*_PEFT_ERRORS, SafetensorError) as error:
        raise EditorError(f"{refused.message}: {_reason(error)}", refused.hint) from error
    return replace(base, model=model.requires_grad_(False), source=source, adapter=digest)


_PEFT_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def _reason(error: Exception) -> str:
    """Why. Of tensors of another shape, the first: torch names them after an empty phrase."""
    _, *details = str(error).splitlines() or [""]
    return details[0].strip() if isinstance(error, RuntimeError) and details else reason_of(error)


def _require_own_embeddings(model: Any) -> None:
    """Raise ValueError if the adapter changes token embeddings that are the vocabulary projection
    as well: merged, its change of the one would be a change of both."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    changed = any(hasattr(end, "base_layer") or hasattr(end, "original_module") for end in ends)
    if changed and model.config.get_text_config(decoder=True).tie_word_embeddings:
        raise ValueError("it changes token embeddings that are also the vocabulary projection")
