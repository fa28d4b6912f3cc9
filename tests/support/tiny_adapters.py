"""Adapters of PEFT: for the tiny models, written without the package, and those of an export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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


def require_adapters_answer_as_ask(
    model: Any, tokenizer: Any, prompts: Sequence[str], tokens: int
) -> None:
    """PEFT loads the adapters of the export in the folder `out` over `model`, the plain base of the
    store of the current folder. With that of the shard that `ask` names, or with none where it
    names none, the model generates what `ask` answers, `tokens` tokens at most."""
    from peft import PeftModel
    from tiny_stores import run

    asked = run("ask", "-", "--json", f"--max-new-tokens={tokens}", stdin="\n".join(prompts))
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    options = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    claimed = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        if answer["shard"] is None:
            output = model.generate(**inputs, **options)
        else:
            folder = Path("out", "adapters", f"shard-{answer['shard']:04d}")
            adapted = PeftModel.from_pretrained(model, str(folder))
            output = adapted.generate(**inputs, **options)
            model = adapted.unload()
            claimed += 1
        text = tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert text.strip() == answer["answer"], prompt
    assert 0 < claimed < len(prompts), "some prompts are claimed and some are not"
