"""What a model is, and what of it can be edited: from its configuration, without its weights.

The structure is read from a model on the meta device, whose tensors have shapes and no values. So a
model of any size takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editcli.models.gguf_cache import outline
from editcli.models.libraries import quiet_libraries
from editcli.models.loading import (
    GGUF_DTYPE,
    KIND,
    code_of,
    load_config,
    load_tokenizer,
    parts_of,
)
from editcli.models.locations import ModelLocation, resolve
from editcli.models.outlines import model_without_weights
from editcli.models.quantization import Edits
from editcli.models.weight_files import weight_files
from editors import EditorError, UnsupportedArchitecture

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from editors.model.architecture import Architecture, Block

UNSAID = "float32"  # the dtype of a configuration that names none


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention heads of a block. ``groups``: the key-value heads, each of which is shared by
    as many query heads; ``width``: of a head; ``prunable``: the blocks whose heads can be pruned.
    """

    count: int
    groups: int
    width: int | None
    prunable: Sequence[int]


@dataclass(frozen=True, slots=True)
class Structure:
    """The blocks of a model, and what of them can be edited; blocks are numbers.

    ``layer``: the block that edits would go into, None if there is none; ``projections``: by path,
    the shape ``[out, in]`` of what the method would edit there; ``mlp_width``: in that block;
    ``editable``: the blocks that could be edited; ``why_not``: by reason, the blocks that lack a
    projection or heads.
    """

    blocks: int
    mlp_width: int | None
    layer: int | None
    projections: Mapping[str, tuple[int, int]]
    editable: Sequence[int]
    heads: Heads
    context: int | None
    why_not: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model that was looked at without its weights.

    ``base`` and ``revision``: what a store would record; ``adapter``: the base of an adapter, which
    all else is about; ``dtype``: of the weights, and ``dtype_bytes``: of one of them;
    ``quantised``: how they are quantised, empty if they are not; ``chat_template``: None if there
    is no tokenizer.
    """

    base: str
    revision: str
    adapter: str | None
    model_type: str
    dtype: str
    dtype_bytes: int
    quantised: str
    parameters: int
    hidden_size: int | None
    vocabulary: int | None
    chat_template: bool | None
    structure: Structure


def inspect_model(
    name: str, *, layer: int | Fraction | None, edits: Edits, adapter: str, trust_remote_code: bool
) -> Inspection:
    """Look at the model called ``name``. The arguments are those of
    :func:`~editcli.models.loading.load_base`; ``trust_remote_code``: code that comes with the model
    may be run.

    Raises:
        EditorError: the model cannot be found, its configuration cannot be used, or it has no such
            layer.
    """
    base, revision = resolve(name)
    location, merging = parts_of(base, revision, adapter)
    code = code_of(base, revision, adapter) if trust_remote_code else ""
    with quiet_libraries(0):
        chats: bool | None
        if location.gguf:
            config, chats = outline(location)
            dtype = GGUF_DTYPE
        else:
            config = _config(location, code)
            chats = _has_chat_template(merging.tokenizer if merging else location, code)
            dtype = str(config.dtype or UNSAID).removeprefix("torch.")
        model = model_without_weights(config, own_code=bool(code))
    import torch

    text = config.get_text_config(decoder=True)
    return Inspection(
        base=base,
        revision=revision,
        adapter=merging.base.shown if merging else None,
        model_type=config.model_type,
        dtype=dtype,
        dtype_bytes=getattr(torch, dtype).itemsize,
        quantised=_quantised(config),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        hidden_size=getattr(text, "hidden_size", None),
        vocabulary=getattr(text, "vocab_size", None),
        chat_template=chats,
        structure=_structure(model, layer, edits),
    )


def _config(location: ModelLocation, code: str) -> PreTrainedConfig:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if location.revision is None:
        weight_files(Path(location.path), location.shown)
    config: PreTrainedConfig = load_config(location, KIND, MODEL_FOR_CAUSAL_LM_MAPPING, code)
    return config


def _has_chat_template(location: ModelLocation, code: str) -> bool | None:
    try:
        return load_tokenizer(location, code).chat_template is not None
    except EditorError:
        return None


def _quantised(config: PreTrainedConfig) -> str:
    """The method by which a checkpoint says that its weights are quantised."""
    named = getattr(config, "quantization_config", None) or {}
    values: Mapping[str, Any] = named if isinstance(named, Mapping) else vars(named)
    method = values.get("quant_method", "")
    return str(getattr(method, "value", method))


def _structure(model: PreTrainedModel, layer: int | Fraction | None, edits: Edits) -> Structure:
    from editors.model.architecture import DEPTH, Architecture

    try:
        architecture = Architecture.of(model)
    except UnsupportedArchitecture as error:
        count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", 0)
        why = {error.message: range(count)}
        return Structure(count, None, None, {}, (), Heads(0, 0, None, ()), None, why)
    editable = [block.index for block in architecture.blocks if block.mlp_down]
    chosen = architecture.layer_at(DEPTH if layer is None else layer) if editable else None
    mlp = architecture.editable(chosen) if chosen is not None else None
    edited = edits(architecture, chosen) if chosen is not None else ()
    why_not: dict[str, list[int]] = {}
    for block in architecture.blocks:
        for reason in _reasons(architecture, block):
            why_not.setdefault(reason, []).append(block.index)
    return Structure(
        blocks=len(architecture.blocks),
        mlp_width=mlp.in_features if mlp else None,
        layer=chosen,
        projections={each.path: (each.out_features, each.in_features) for each in edited},
        editable=editable,
        heads=_heads(architecture),
        context=architecture.context,
        why_not=why_not,
    )


def _heads(architecture: Architecture) -> Heads:
    widths = {block.index: _head_width(architecture, block) for block in architecture.blocks}
    prunable = [index for index, width in widths.items() if width]
    width = widths[prunable[0]] if prunable else None
    return Heads(architecture.n_heads, architecture.n_kv_heads, width, prunable)


def _head_width(architecture: Architecture, block: Block) -> int | None:
    if block.attention_out is None:
        return None
    try:
        part = architecture.head_slice(block.index, 0)
    except UnsupportedArchitecture:  # the heads do not divide it
        return None
    return int(part.stop)


def _reasons(architecture: Architecture, block: Block) -> Iterator[str]:
    """Why something of the block cannot be edited or pruned."""
    if block.why_not:
        yield block.why_not
    if block.attention_out and not _head_width(architecture, block):
        features = block.attention_out.in_features
        yield f"its attention output takes {features} features, which its heads do not divide"
