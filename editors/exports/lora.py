"""Each memory of low rank as an adapter of PEFT, beside the edits as :mod:`editors.exports.adapter`
writes them, which tell the prompts of each.

    adapters/shard-0000/    adapter_config.json and adapter_model.safetensors, of memory 0
    adapters.json           by name of an adapter, the ids of the facts in force that it answers

An adapter computes ``up(down(x))`` beside the projection (LoRA, arXiv 2106.09685), as a memory
does. In float32 its logits are therefore those of the memory, bit for bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from editors.errors import EditorError
from editors.exports.adapter import ADAPTER_CONFIG, write_adapter
from editors.exports.folder import EditConfig
from editors.methods.base import Method
from editors.methods.edit_state import EditState
from editors.methods.low_rank import LowRankMemory, adapter_name
from editors.model.projection import Projection
from editors.model.tensor_files import to_bytes

ADAPTERS = "adapters"  # the folder, and the list of what is in it
WEIGHTS = "adapter_model.safetensors"


def write_lora(
    method: Method[Any, Any], state: EditState, config: EditConfig, folder: Path
) -> None:
    """Write ``state``, a loaded state of ``method``, and its adapters into ``folder``, which must
    not exist.

    Raises:
        EditorError: a memory is not of low rank, or the version has what no adapter can hold:
            pruned heads, or a base with an adapter of its own.
    """
    memories = method.low_rank_memories(state)
    if state.pruning and state.pruning.mask.heads:
        raise EditorError(
            "this version has pruned heads, which an adapter of PEFT cannot hold",
            "`--as adapter`, or `editcli undo --heads`",
        )
    if config.adapter:
        raise EditorError(
            "the base has an adapter merged into it, and its plain weights are another base",
            "`--as adapter`; or merge it with peft, and make a store on the merged model",
        )
    write_adapter(method, state, config, folder)
    [projection] = method.edited_projections()
    values = _config(config, projection)
    names = {}
    for number, memory in memories.items():
        names[adapter_name(number)] = list(memory.facts)
        _write(memory, values, projection, folder / ADAPTERS / adapter_name(number))
    text = json.dumps(names, indent=1) + "\n"
    (folder / f"{ADAPTERS}.json").write_text(text, encoding="utf-8")


def _config(config: EditConfig, projection: Projection) -> dict[str, Any]:
    """What ``adapter_config.json`` says of every adapter."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.base_model_name_or_path,
        "revision": config.revision or None,
        # The whole path: a name alone is that of a module in every block.
        "target_modules": [projection.path],
        "fan_in_fan_out": projection.transposed,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def _write(
    memory: LowRankMemory, values: dict[str, Any], projection: Projection, folder: Path
) -> None:
    folder.mkdir(parents=True)
    rank = len(memory.down)
    # The matrices hold the scale, so engines scale by alpha / r = 1.
    text = json.dumps({**values, "r": rank, "lora_alpha": rank}, indent=1) + "\n"
    (folder / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
    name = f"base_model.model.{projection.path}"
    tensors = {f"{name}.lora_A.weight": memory.down, f"{name}.lora_B.weight": memory.up}
    (folder / WEIGHTS).write_bytes(to_bytes(tensors))
