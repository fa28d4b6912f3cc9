"""Loading the base model.

Weights come from safetensors only. Code that a checkpoint brings is run only if the user trusts it.
A checkpoint that lacks weights is refused: transformers would draw them at random.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editcli.errors import UsageError
from editcli.models import quantization
from editcli.models.adapters import EXTRA, Adapter, adapter_in, merged, weights_alone
from editcli.models.gguf_cache import BYTES, Tell, dequantised
from editcli.models.libraries import (
    device_named,
    disable_cudnn_attention,
    quiet_libraries,
    reason_of,
    require,
)
from editcli.models.locations import (
    ModelLocation,
    config_values,
    find_model,
    has_edits,
    hub_config,
)
from editcli.models.own_code import FLAG, brings, code_digest, require_unchanged
from editcli.models.weight_files import weight_files
from editors import EditorError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from editors.model.base_model import Base

KIND = "causal language model"
DTYPES = ("float32", "bfloat16", "float16", *quantization.BITS)
SPREAD = "spread"  # a device: the blocks over all accelerators, and what does not fit on the CPU
EVERYWHERE = "all devices together"
NOTHING_PLACED = "offload the whole model"  # in accelerate's error when no device has room
GGUF_DTYPE = "float32"  # of the weights of a GGUF file: no other holds all of them without rounding


def untold(_: str) -> None:
    """Takes notes where nobody reads them."""


def load_base(
    name: str,
    *,
    revision: str = "",
    device: str = "auto",
    dtype: str = "auto",
    layer: int | Fraction | None = None,
    chats: bool = False,
    verbose: int = 0,
    tell: Tell = untold,
    edits: quantization.Edits = lambda _, __: (),
    adapter: str = "",
    code: str = "",
) -> Base:
    """The model and tokenizer called ``name``, frozen, with the block to edit.

    ``name`` is one that :func:`~editcli.models.locations.resolve` takes; or one that it returns,
    with the ``revision`` beside it. ``layer`` is the number of the block, or its share of the
    depth. ``device`` "auto" is the first that exists of cuda, mps and
    cpu, "spread" is all devices. ``dtype`` "auto" keeps the checkpoint's, and is float32 for a GGUF
    file; "8bit" and "4bit" pack all but the projections that ``edits`` names. Library logs are let
    through from ``verbose`` 2 on. ``tell`` takes notes on what takes long and is done once.
    ``chats``: the model is to be asked in chats, so its tokenizer must have a chat template.
    ``adapter``: "use" or "ignore", for an adapter of PEFT beside the weights. ``code``: the SHA-256
    of code of the model's own (:func:`code_of`) that may be run.

    Raises:
        UsageError: an unknown or absent device, or an unknown dtype; or chats without a template;
            or an adapter is to be merged into packed weights.
        UnsupportedArchitecture: the block cannot be edited.
        StateMismatch: the model's own code is not ``code``.
        EditorError: the model, an adapter or its tokenizer cannot be found or loaded, or it has
            edits already.
    """
    if dtype not in ("auto", *DTYPES):
        raise UsageError(f"unknown dtype {dtype!r}", f"`--dtype` takes auto, {', '.join(DTYPES)}")
    location, merging = parts_of(name, revision, adapter)
    shown = find_model(name, revision).shown
    if merging:
        require("peft", "merging an adapter", EXTRA)
        if dtype in quantization.BITS:
            raise UsageError(
                f"an adapter cannot be merged into a base packed to {dtype}",
                "`--dtype bfloat16`; or merge it with peft, and use the merged model",
            )
    target = SPREAD if device == SPREAD else device_named(device)

    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    from editors.model.architecture import DEPTH
    from editors.model.base_model import Base

    layer = DEPTH if layer is None else layer
    with quiet_libraries(verbose):
        source = ""
        if location.gguf:
            location, source = dequantised(location, dtype if dtype in BYTES else GGUF_DTYPE, tell)
        config = load_config(location, KIND, MODEL_FOR_CAUSAL_LM_MAPPING, code)
        if code:
            tell(f"running the code that comes with {location.shown}")
        # Before the weights, which may take minutes.
        tokenizer = load_tokenizer(merging.tokenizer if merging else location, code)
        if chats and tokenizer.chat_template is None:
            raise UsageError(
                f"{shown} has no chat template, so it cannot be asked in chats",
                "leave `--chat` and `--system` out, or use a model whose tokenizer has one",
            )
        options: dict[str, Any] = {"dtype": dtype}
        if dtype in quantization.BITS:
            unpacked = config.dtype or torch.float32
            packing = quantization.packing(config, dtype, layer, unpacked, edits, bool(code))
            placed = {"": target}
            options = {"dtype": unpacked, "quantization_config": packing, "device_map": placed}
        if target == SPREAD:
            require("accelerate", "`--device spread`", quantization.EXTRA)
            options["device_map"] = "auto"
        options["trust_remote_code"] = bool(code)
        model = load_weights(AutoModelForCausalLM, location, config, KIND, target, **options)
        quantization.keep_differentiable(model)
        disable_cudnn_attention()
        base = Base.of(model, tokenizer, layer, source)
        return merged(base, merging, shown) if merging else base


def code_of(name: str, revision: str, adapter: str) -> str:
    """The SHA-256 of the code that comes with a model, the base of an adapter if it is one; empty
    if there is none. The arguments are those of :func:`load_base`; raises EditorError."""
    return code_digest(parts_of(name, revision, adapter)[0])


def parts_of(name: str, revision: str, adapter: str) -> tuple[ModelLocation, Adapter | None]:
    """Where the weights of a model are, and the adapter that is to be merged into them. The
    arguments are those of :func:`load_base`; raises EditorError."""
    location = find_model(name, revision)
    found = adapter_in(location, adapter)
    return (found.base if found else location), found


def dtype_name(base: Base) -> str:
    """The dtype of a loaded base as ``--dtype`` calls it."""
    return quantization.bits_of(base.model) or str(base.model.dtype).removeprefix("torch.")


def load_config(location: ModelLocation, kind: str, types: Any, code: str = "") -> Any:
    """The configuration of a checkpoint of one of ``types``; errors call such a model a ``kind``.
    ``code``: the SHA-256 of code of its own that may be run.

    Raises:
        StateMismatch: the code is another.
        EditorError: the configuration cannot be read, or is of another type, or of a model with
            edits.
    """
    from transformers import AutoConfig

    from editors.model.base_model import EDITED

    values = config_values(location)
    if str(values.get("model_type")).startswith(EDITED):
        on_hub = location.revision is not None
        folder = Path(hub_config(location)).parent if on_hub else Path(location.path)
        raise has_edits(location.shown, folder)
    if code:
        require_unchanged(location, code)
    raised = (Exception,) if code else (OSError, ValueError, KeyError, TypeError)
    try:
        config = AutoConfig.from_pretrained(
            location.path, revision=location.revision, trust_remote_code=bool(code)
        )
    except raised as error:
        if "trust_remote_code" in str(error):
            raise EditorError(
                f"{location.shown} needs code of its own, which editcli does not run",
                "use a model of a family that transformers knows; or, if you have read the code "
                f"and trust it, `editcli init MODEL {FLAG}`",
            ) from error
        raise EditorError(
            f"the configuration of {location.shown} cannot be used: {reason_of(error)}",
            "`pip install --upgrade transformers` if the model is newer",
        ) from error
    if type(config) not in types and not (code and brings(values, "AutoModelForCausalLM")):
        raise EditorError(
            f"{location.shown} is not a {kind}: its type is {config.model_type!r}", f"name a {kind}"
        )
    return config


def load_weights(
    loader: Any, location: ModelLocation, config: Any, kind: str, target: Any, **options: Any
) -> PreTrainedModel:
    """The model that ``loader`` (an auto class) makes of a checkpoint, without an adapter that may
    lie beside it, on device ``target`` unless a ``device_map`` puts it elsewhere; errors call it a
    ``kind``.

    Raises:
        EditorError: the weights cannot be loaded, do not fit, or some are missing.
    """
    import torch
    from safetensors import SafetensorError

    if location.revision is None:
        weight_files(Path(location.path), location.shown)
    options = {"trust_remote_code": False, **options}
    own_code: bool = options["trust_remote_code"]
    raised = (Exception,) if own_code else (OSError, ValueError, RuntimeError, SafetensorError)
    try:
        with weights_alone():
            model, loading = loader.from_pretrained(
                location.path,
                revision=location.revision,
                config=config,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        if "device_map" not in options:
            model.to(target)
    except torch.OutOfMemoryError as error:
        raise too_large(location, target) from error
    except raised as error:
        if NOTHING_PLACED in str(error):
            raise too_large(location, EVERYWHERE) from error
        raise EditorError(
            f"the weights of {location.shown} cannot be loaded: {reason_of(error)}",
            "weights are read from .safetensors files only",
        ) from error
    if any(parameter.is_meta for parameter in model.parameters()):  # left on disk by accelerate
        raise too_large(location, EVERYWHERE)
    if missing := sorted(loading["missing_keys"]):
        raise EditorError(
            f"{location.shown} lacks {len(missing)} of the weights, such as {missing[0]}",
            f"the checkpoint is incomplete, or is not a {kind}",
        )
    loaded: PreTrainedModel = model
    return loaded


def load_tokenizer(location: ModelLocation, code: str = "") -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, which may run its own ``code``; raises EditorError."""
    from transformers import AutoTokenizer

    hint = "save the tokenizer into the model's folder: `tokenizer.save_pretrained(FOLDER)`"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            location.path, revision=location.revision, trust_remote_code=bool(code)
        )
    # Each tokenizer format raises errors of its own; to the user all of them mean the same.
    except Exception as error:
        raise EditorError(
            f"the tokenizer of {location.shown} cannot be loaded: {reason_of(error)}", hint
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # its files are absent
        raise EditorError(f"{location.shown} has no tokenizer", hint)
    return tokenizer


def too_large(location: ModelLocation, target: Any) -> EditorError:
    """The error of a model that does not fit on ``target``."""
    hint = "`--device spread` over several, `--device cpu`, or a smaller `--dtype`"
    if target == EVERYWHERE:
        hint = "a smaller `--dtype`: `--dtype 4bit`"
    return EditorError(f"{location.shown} does not fit into the memory of {target}", hint)
