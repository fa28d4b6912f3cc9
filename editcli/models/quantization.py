"""A base packed to 8 or 4 bits: a model of twice or four times the size fits into the same memory.

The projections that edits go into and the vocabulary projection keep the checkpoint's dtype, so
that an edit is computed in full precision. Everything else is packed while it is loaded
(bitsandbytes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from editcli.models.libraries import require

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from editors.model.architecture import Architecture
    from editors.model.projection import Projection

Edits = Callable[["Architecture", int], Sequence["Projection"]]
"""From a model's structure and the number of a block, the projections that a method edits there."""

BITS = ("8bit", "4bit")
EXTRA = "large"


def packing(
    config: PreTrainedConfig,
    bits: str,
    layer: int | Fraction,
    dtype: Any,
    edits: Edits,
    own_code: bool = False,
) -> Any:
    """The configuration by which transformers loads a model of ``config`` in ``bits``.

    ``layer``: the block to be edited, or its share of the depth; ``edits``: the projections that
    the method edits in it; ``dtype``: the dtype in which packed weights are multiplied;
    ``own_code``: whether code that the model brings may be run.

    Raises:
        EditorError: the packages for it are not installed.
        UnsupportedArchitecture: the block cannot be edited.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from editors.model.architecture import Architecture, vocabulary_projection

    for package in ("bitsandbytes", "accelerate"):
        require(package, f"keeping a base in {bits}", EXTRA)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=own_code)
    architecture = Architecture.of(model)
    edited = edits(architecture, architecture.layer_at(layer))
    return BitsAndBytesConfig(
        load_in_8bit=bits == "8bit",
        load_in_4bit=bits == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[
            *(projection.path for projection in edited),
            vocabulary_projection(model),
        ],
    )


def keep_differentiable(model: PreTrainedModel) -> None:
    """Keep packed weights in the layout that has a backward pass.

    On CPUs with AVX-512 for bfloat16, bitsandbytes repacks 4-bit weights at their first use, for a
    kernel without a backward pass: training an edit below them would go wrong in silence.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def bits_of(model: PreTrainedModel) -> str | None:
    """How ``model`` is packed, as ``--dtype`` calls it; None where it is not."""
    return next((bits for bits in BITS if getattr(model, f"is_loaded_in_{bits}", False)), None)
