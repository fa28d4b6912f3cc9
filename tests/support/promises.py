"""What editing promises, measured on a tiny model with random weights of any family.

`tests/test_families.py` and `scripts/bench/models.py` measure by this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tiny_configs import PAD
from tiny_edits import FAST, FRANCE, JAPAN, edit, no_edits
from tiny_models import build, build_tokenizer

if TYPE_CHECKING:
    import torch

    from editors.methods.edit_state import EditState
    from editors.model.base_model import Base

EDITED = (FRANCE, JAPAN)
OTHERS = ("the sea of Spain is", "who lives in Kenya ?", "the capital of Peru is")
PROMPTS = (*(fact.prompt for fact in EDITED), *OTHERS)
TOKENS = 4
LAST_BITS = "beside edited prompts, the logits of others differ in their last bits"


@dataclass(frozen=True)
class Edited:
    """A tiny model with two facts edited in, as a folder of files as well."""

    method: Any
    state: EditState
    folder: Path

    @property
    def base(self) -> Base:
        base: Base = self.method.base
        return base


def measure(family: str, folder: Path) -> dict[str, Any]:
    """What holds for ``family``: the class of its models; the projections that can be edited, or
    why none can; and each promise, "" where it is kept, else what went wrong. ``folder``: an empty
    one, for files.

    Raises:
        ValueError: transformers has no such family.
    """
    from editors import EditorError, UnsupportedArchitecture
    from editors.model.base_model import Base

    model = build(family)
    about = {"class": type(model).__name__}
    try:
        base = Base.of(model, build_tokenizer())
    except UnsupportedArchitecture as error:
        return {**about, "refused": error.message}
    blocks = base.architecture.blocks
    about["edited"] = sorted({_shown(block.mlp_down) for block in blocks} - {""})
    about["lacking"] = sorted({block.why_not for block in blocks} - {""})
    promises: dict[str, str] = {}
    if about["edited"]:
        try:
            edited = _edited(base, folder)
        except EditorError as error:
            promises["edit"] = error.message
        else:
            promises = {name: _kept(check, edited) for name, check in OF_EDITS.items()}
    if base.architecture.n_heads and any(block.attention_out for block in blocks):
        promises[HEADS] = _kept(pruned_alike, base)
    return {**about, "promises": promises}


def _shown(projection: Any) -> str:
    """The path of a projection in its block."""
    path = projection.path if projection else ""
    return path.partition(".layers.")[2].partition(".")[2] or ".".join(path.split(".")[-2:])


def _edited(base: Base, folder: Path) -> Edited:
    from editors import METHODS

    method = METHODS.load("wise").build(base, FAST, 0)
    method.self_test()
    base.model.save_pretrained(folder / "base")
    base.tokenizer.save_pretrained(folder / "base")
    return Edited(method, edit(method, EDITED).state, folder)


def _kept(check: Callable[[Any], None], of: Any) -> str:
    """Empty, or the first line of what ``check`` raised."""
    try:
        check(of)
    except Exception as error:  # a library may raise anything; the table tells what
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


# --- the promises ---------------------------------------------------------------------------------


def edits_are_answered(edited: Edited) -> None:
    """Each edited prompt is answered with its target, and nothing else is claimed."""
    from editors.inference.generation import answers

    with edited.method.attach(edited.state) as model:
        found = answers(model, PROMPTS, TOKENS)
    for fact, answer in zip(EDITED, found, strict=False):
        assert answer.text.startswith(fact.target), f"{fact.prompt!r} is answered {answer.text!r}"
    claimed = [answer.decision.opened for answer in found]
    assert claimed == [True] * len(EDITED) + [False] * len(OTHERS), f"claimed: {claimed}"


def others_are_unchanged(edited: Edited) -> None:
    """Unclaimed prompts, alone and as a batch, have the logits of the base, bit for bit, after the
    prompt and after each token of the answer."""
    import torch

    batches = [(prompt,) for prompt in OTHERS] + [OTHERS]
    before = [_logits(edited.base, batch) for batch in batches]
    with edited.method.attach(edited.state):
        after = [_logits(edited.base, batch) for batch in batches]
    assert all(map(torch.equal, after, before)), "other logits"


def others_beside_claimed(edited: Edited) -> None:
    """The same of unclaimed prompts in one batch with claimed ones."""
    import torch

    before = _logits(edited.base, PROMPTS)[len(EDITED) :]
    with edited.method.attach(edited.state):
        after = _logits(edited.base, PROMPTS)[len(EDITED) :]
    nearly = torch.allclose(after, before, atol=1e-4, rtol=1e-4)
    assert torch.equal(after, before), LAST_BITS if nearly else "other logits"


def cached_as_uncached(edited: Edited) -> None:
    """With a cache and without, the same tokens are answered."""
    with edited.method.attach(edited.state):
        with_cache, without = (
            _tokens(edited.base.model, edited.base, use_cache=cache) for cache in (True, False)
        )
    assert with_cache == without, f"{with_cache} with a cache, {without} without"


def adapter_alike(edited: Edited) -> None:
    """Exported as an adapter and opened on the base, loaded anew, the same tokens are answered."""
    from transformers import AutoModelForCausalLM

    from editors.exports.adapter import write_adapter
    from editors.exports.folder import opened

    wanted = _answered(edited)
    out = edited.folder / "adapter"
    write_adapter(edited.method, edited.state, _config(edited), out)
    model = AutoModelForCausalLM.from_pretrained(edited.folder / "base")
    # With the tokenizer at hand: for qwen2, transformers loads one of another kind than was saved.
    with opened(model, edited.base.tokenizer, out) as loaded:
        found = _tokens(loaded.model, edited.base)
    assert found == wanted, f"{found}, not {wanted}"


def remote_code_alike(edited: Edited) -> None:
    """Exported with its code and loaded by transformers alone, the same tokens are answered."""
    from transformers import AutoModelForCausalLM

    from editors.exports.remote_code import write_remote_code

    wanted = _answered(edited)
    weights = edited.folder / "base"
    out = edited.folder / f"{edited.folder.name}_remote"  # code is known by the folder's name
    write_remote_code(edited.method, edited.state, _config(edited), weights, out)
    with patch("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(edited.folder / "code")):
        model = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    found = _tokens(model, edited.base)
    assert found == wanted, f"{found}, not {wanted}"


def pruned_alike(base: Base) -> None:
    """Heads that are pruned by a hook, and by plain weights, give the same logits but for
    rounding; and something changes."""
    import torch

    from editors import METHODS
    from editors.exports.merged import merged
    from editors.heads.pruning import Head, HeadMask, HeadPruning

    blocks = base.architecture.blocks
    mask = HeadMask(tuple(Head(block.index, 1) for block in blocks if block.attention_out), 0.25)
    method = METHODS.load("in-context").build(base, {"rank": 8}, 0)
    state = no_edits(method)
    state = replace(state, pruning=HeadPruning("context", mask, state.edits))
    before = _logits(base, PROMPTS)
    with method.attach(state):
        hooked = _logits(base, PROMPTS)
    with merged(method, state):
        baked = _logits(base, PROMPTS)
    assert float((hooked - before).abs().max()) > 1e-3, "nothing changed"
    torch.testing.assert_close(baked, hooked, atol=1e-4, rtol=1e-4)
    assert torch.equal(_logits(base, PROMPTS), before), "the base is not as it was"


OF_EDITS: dict[str, Callable[[Edited], None]] = {
    "edit": edits_are_answered,
    "others": others_are_unchanged,
    "beside": others_beside_claimed,
    "cache": cached_as_uncached,
    "adapter": adapter_alike,
    "remote-code": remote_code_alike,
}
HEADS = "heads"


# --- running the model ----------------------------------------------------------------------------


def _inputs(base: Base, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    """The prompts as one batch, padded on the left."""
    from editors.model.tokenization import Row, encode_prompts

    rows = [Row.of_prompt(ids) for ids in encode_prompts(base.tokenizer, prompts)]
    batch = base.batch(rows, side="left")
    return {"input_ids": batch.ids, "attention_mask": batch.mask}


def _generate(model: Any, inputs: Mapping[str, torch.Tensor], **options: Any) -> Any:
    """`generate`, greedy, for TOKENS tokens whatever they are."""
    return model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )


def _logits(base: Base, prompts: Sequence[str]) -> torch.Tensor:
    """[prompts, tokens, vocabulary]: the logits of a prompt's last token and of its answer's."""
    import torch

    return torch.stack(_generate(base.model, _inputs(base, prompts)).logits, 1)


def _tokens(model: Any, base: Base, **options: Any) -> list[list[int]]:
    """The answer to each prompt, asked by itself."""
    found = []
    for prompt in PROMPTS:
        inputs = _inputs(base, (prompt,))
        sequences = _generate(model, inputs, **options).sequences
        found.append(sequences[0, inputs["input_ids"].shape[1] :].tolist())
    return found


def _answered(edited: Edited) -> list[list[int]]:
    with edited.method.attach(edited.state):
        return _tokens(edited.base.model, edited.base)


def _config(edited: Edited) -> Any:
    from editors.exports.folder import EditConfig

    return EditConfig(
        base_model_name_or_path=str(edited.folder / "base"),
        revision="",
        dtype="float32",
        layer=edited.base.layer,
        method="wise",
        seed=0,
        version="v0002",
        editcli_version="0",
    )
