"""A folder that transformers alone can load: the base's weights, the edits, and one module of code.

``AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)`` gives the edited model.
Without ``trust_remote_code`` the folder is refused: its model type is known to this module only, so
nobody takes the base for the edited model.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers

from editors.errors import EditorError, UnsupportedArchitecture
from editors.exports.bundle import bundle
from editors.exports.folder import EditConfig, link_files, write_edits
from editors.methods.base import Method
from editors.methods.edit_state import EditState
from editors.methods.registry import METHODS
from editors.model.base_model import EDITED
from editors.scope.registry import SIGNALS

MODULE = "modeling_editcli"
WEIGHTS = "*.safetensors*"  # with their index

_CODE = '''"""{name} with edited facts: see README.md. Written by editcli {version}."""

from copy import deepcopy
from importlib import import_module
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, {config_class}, {model_class}

{bundle}

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")


class EditedConfig({config_class}):
    model_type = "{model_type}"


class EditedForCausalLM({model_class}):
    """Loads the base with its edits. `edits.explain(PROMPT)` tells why a prompt is answered so."""

    config_class = EditedConfig

    @classmethod
    def from_pretrained(cls, name, *args, config=None, output_loading_info=False, **kwargs):
        chosen = {{key: kwargs[key] for key in HUB_OPTIONS if kwargs.get(key) is not None}}
        edited = config or EditedConfig.from_pretrained(name, **chosen)
        # By its class and type, transformers knows how weights are named and what is computed.
        own = deepcopy(edited)
        own.__class__ = {config_class}
        own.model_type = {config_class}.model_type
        own.architectures = ["{model_class}"]
        vars(own).pop("auto_map", None)
        model, info = {model_class}.from_pretrained(
            name, *args, config=own, output_loading_info=True, **kwargs
        )
        if info["missing_keys"]:
            raise ValueError(f"weights are missing, such as {{min(info['missing_keys'])}}")
        model.edits = _attached(model, name, edited, chosen)
        return (model, info) if output_loading_info else model


def _attached(model, name, config, chosen):
    opened = import_module(f"{{PACKAGE}}.exports.folder").opened
    folder = Path(name)
    if not folder.is_dir():
        folder = Path(snapshot_download(name, allow_patterns={patterns}, **chosen))
    return opened(model, AutoTokenizer.from_pretrained(folder, config=config), folder)
'''


def write_remote_code(
    method: Method[Any, Any],
    state: EditState,
    config: EditConfig,
    weights: Path | None,
    folder: Path,
) -> None:
    """Write ``state``, a loaded state of ``method``, as a model with code of its own into
    ``folder``, which must not exist. ``weights``: the folder with the base's safetensors files,
    which are linked, not copied, where the file system allows it; None if they are in no file.

    Raises:
        UnsupportedArchitecture: the model is not of a class of transformers.
        EditorError: the method rewrites prompts, which a model cannot, or is of another package.
    """
    if method.rewriter(state) is not None:
        raise EditorError(
            f"{state.method} rewrites prompts before the model sees them, so no model can hold it",
            "`--as adapter`",
        )
    classes = type(method.base.model), type(method.base.model.config)
    for of_transformers in classes:
        if getattr(transformers, of_transformers.__name__, None) is not of_transformers:
            raise UnsupportedArchitecture(
                f"{of_transformers.__name__} is not a class of transformers", "`--as adapter`"
            )
    code = _code(method, state, config, *classes)
    if weights is None:
        method.base.model.save_pretrained(folder)
    write_edits(method, state, replace(config, adapter=""), folder)
    (folder / f"{MODULE}.py").write_text(code, encoding="utf-8")
    base_config = method.base.model.config
    values = base_config.to_dict() | {
        "model_type": EDITED + base_config.model_type,
        "architectures": ["AutoModelForCausalLM"],
        "dtype": config.dtype,
        "auto_map": {
            "AutoConfig": f"{MODULE}.EditedConfig",
            "AutoModelForCausalLM": f"{MODULE}.EditedForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(values, indent=1, default=str) + "\n")
    method.base.tokenizer.save_pretrained(folder)
    if weights is not None:
        link_files(weights, folder, WEIGHTS)
        link_files(weights, folder, "generation_config.json")


def _code(
    method: Method[Any, Any],
    state: EditState,
    config: EditConfig,
    model_class: type[Any],
    config_class: type[Any],
) -> str:
    """The source of the module."""
    implementation = type(method).__module__
    named = [METHODS.module_of(state.method)]
    named += [SIGNALS.module_of(str(value)) for value in state.settings.values()]
    roots = ["editors.exports.folder", implementation, *(name for name in named if name)]
    return _CODE.format(
        name=config.base_model_name_or_path,
        version=config.editcli_version,
        config_class=config_class.__name__,
        model_class=model_class.__name__,
        model_type=EDITED + config_class.model_type,
        bundle=bundle(roots, config.editcli_version),
        patterns=["edits/*", "*.json", "*.jinja", "tokenizer*"],
    )
