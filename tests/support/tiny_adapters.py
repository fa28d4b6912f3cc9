"""Adapters of PEFT for the tiny models, written without the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

RANK, ALPHA = 4, 6
SCALE = ALPHA / RANK
TARGETS = ("q_proj", "down_proj")


def save_adapter(folder: Path, base: Path | str, *, seed: int = 0, **settings: Any) -> Path:
    """`folder`, now with a LoRA adapter, drawn with `seed`, of the tiny model in `base`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": list(TARGETS),
        "inference_mode": True,
        **settings,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    named = {
        f"base_model.model.{path}.lora_{part}.weight": matrix
        for path, parts in matrices(base, config["target_modules"], seed).items()
        for part, matrix in parts.items()
    }
    save_file(named, folder / "adapter_model.safetensors")
    return folder


def matrices(
    base: Path | str, targets: list[str], seed: int
) -> Mapping[str, Mapping[str, torch.Tensor]]:
    """By the path of a module, the matrices A `[rank, in]` and B `[out, rank]` of the adapter."""
    import torch
    from safetensors.torch import load_file

    random = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in load_file(Path(base) / "model.safetensors").items():
        path = name.removesuffix(".weight")
        if path.rpartition(".")[2] in targets:
            outputs, inputs = weight.shape
            shapes = {"A": (RANK, inputs), "B": (outputs, RANK)}
            found[path] = {k: torch.randn(s, generator=random) * 0.2 for k, s in shapes.items()}
    return found
