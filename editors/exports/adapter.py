"""A small folder with the edits alone, over a base that stays where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from editors.errors import EditorError
from editors.exports.folder import EditConfig, opened, write_edits
from editors.exports.loaded_model import LoadedModel
from editors.methods.base import Method
from editors.methods.edit_state import EditState

ADAPTER_CONFIG = "adapter_config.json"  # of PEFT


def write_adapter(
    method: Method[Any, Any], state: EditState, config: EditConfig, folder: Path
) -> None:
    """Write ``state``, a loaded state of ``method``, into ``folder``, which must not exist."""
    write_edits(method, state, config, folder)


def load_adapter(folder: Path, base: str | Path | None, device: str) -> LoadedModel:
    """The base with the edits in ``folder``; see :func:`editors.load`."""
    config = EditConfig.read(folder)
    place = str(base or config.base_model_name_or_path)
    revision = None if base or not config.revision else config.revision
    with_adapter = EditorError(
        f"the base {place!r} holds an adapter of PEFT, which is not merged here",
        "`editcli.load(FOLDER)` merges it, or leaves it out, as the store did",
    )
    if config.adapter or (Path(place) / ADAPTER_CONFIG).is_file():
        raise with_adapter
    hint = "name the base: `editors.load(FOLDER, base=...)`, a folder with safetensors or a Hub id"
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            place,
            revision=revision,
            dtype=config.dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
    except (OSError, ValueError) as error:
        raise EditorError(
            f"the base {place!r} cannot be loaded: {str(error).splitlines()[0]}", hint
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise EditorError(f"the base {place!r} lacks weights, such as {missing[0]}", hint)
    if getattr(model, "_hf_peft_config_loaded", False):  # it was beside the weights on the Hub
        raise with_adapter
    return opened(model.to(device), tokenizer, folder)
