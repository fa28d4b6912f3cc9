"""Tiny models of many families and a word-level tokenizer, built in memory, as pytest fixtures.

It lies in a folder of its own because that folder goes on ``sys.path``: with ``tests/`` there,
``tests/editors`` would stand in for the ``editors`` package wherever that is installed editable.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # imported where used, so that a test without tensors never waits for torch
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VOCABULARY = 96
HIDDEN = 32
HEADS = 4
BLOCKS = 3
CONTEXT = 128
PAD, BOS, EOS, UNK = range(4)

_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_BASE = {
    **_IDS,
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
}
_MODERN = {**_BASE, "intermediate_size": 48}
_GROUPED = {**_MODERN, "num_key_value_heads": 2}
_WIDE = {**_GROUPED, "head_dim": 16}  # on purpose not hidden / heads
_GEMMA = {**_WIDE, "query_pre_attn_scalar": 16, "sliding_window": 8}
_GPT = {
    **_IDS,
    "vocab_size": VOCABULARY,
    "n_embd": HIDDEN,
    "n_layer": BLOCKS,
    "n_head": HEADS,
    "n_positions": CONTEXT,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {**_GPT, "n_inner": HIDDEN},  # square, so that a shape says nothing of orientation
    "gptj": {**_GPT, "n_inner": 48, "rotary_dim": 4},
    "gpt_neox": {**_MODERN, "rotary_pct": 0.5},
    "llama": _WIDE,
    "mistral": _WIDE,
    "qwen2": _GROUPED,
    "qwen3": _WIDE,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi": {**_GROUPED, "partial_rotary_factor": 0.5},
    "phi3": {**_WIDE, "original_max_position_embeddings": CONTEXT},
    "opt": {**_BASE, "ffn_dim": 48, "word_embed_proj_dim": HIDDEN},
    "bloom": {**_IDS, "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "n_layer": BLOCKS}
    | {"n_head": HEADS},
    "falcon": {**_BASE, "ffn_hidden_size": 48, "num_kv_heads": 2, "bias": True}
    | {"new_decoder_architecture": True},
    "olmo2": _GROUPED,
    "cohere": {**_GROUPED, "logit_scale": 1.0},
    "starcoder2": {**_GROUPED, "use_bias": True},
    # Below: not every block, or no block, can be edited.
    "mixtral": {**_WIDE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {**_MODERN, "first_k_dense_replace": 1, "moe_intermediate_size": 16}
    | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    | {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
    | {"v_head_dim": 16, "num_key_value_heads": HEADS},
    "qwen2_moe": {**_GROUPED, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 48}
    | {"num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_5_text": {**_WIDE, "num_hidden_layers": 4, "linear_num_key_heads": 2}
    | {"linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "mamba": {**_IDS, "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "state_size": 8}
    | {"num_hidden_layers": BLOCKS},
}
SPECIAL = ("mixtral", "deepseek_v3", "qwen2_moe", "qwen3_5_text", "mamba")
EDITABLE = tuple(family for family in CONFIGS if family not in SPECIAL)
"""Families whose every block has both projections."""

# Learnt positions; rotary ones; sliding windows, and norms after a sublayer; ALiBi.
QUICK = ("gpt2", "llama", "gemma2", "bloom")


def quick_first(families: Iterable[str], *values: object) -> list[Any]:
    """Parameters of a costly test, each a family and ``values``: families of a kind of their own in
    every run, and all others among the slow tests."""
    return [
        pytest.param(family, *values, marks=() if family in QUICK else pytest.mark.slow)
        for family in families
    ]


_TEXT = """
the a an of in is was are and to by who what where which city country capital river language author
leader sea mountain born lives works speaks wrote made plays for from with on at France Paris Italy
Rome Spain Madrid Japan Tokyo Kenya Nairobi Peru Lima Norway Oslo Egypt Cairo Ann Bob Cara Dan Eva
Finn Gus Hana French Italian Spanish Japanese piano violin drums red green blue one two three not
but or it he she they . , ? ! : ;
"""
WORDS = tuple(_TEXT.split())

CHAT = "<s>{% for turn in messages %} {{ turn['role'] }} {{ turn['content'] }}{% endfor %}"
"""A chat template. The tokenizer knows no role, so each turn begins with ``<unk>``."""


def build(family: str) -> PreTrainedModel:
    """A fresh model of ``family``: float32, eval mode, the same weights at every call.

    Every parameter is drawn anew, biases and norms included, so that nothing that a test should
    notice is zero or one by initialisation.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)  # at this size a second thread only waits
    config = AutoConfig.for_model(family, **copy.deepcopy(CONFIGS[family]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.dim() < 2:
                    parameter.add_(0.1 * noise)
                else:
                    parameter.copy_(noise * min(parameter.shape[-2:]) ** -0.5)
    return model.eval()


def build_tokenizer(
    *,
    padding_side: str = "right",
    adds_bos: bool = True,
    adds_eos: bool = False,
    has_pad: bool = True,
    has_eos: bool = True,
    chat_template: str | None = None,
) -> PreTrainedTokenizerBase:
    """One token a word, ids below ``VOCABULARY``; words outside ``WORDS`` become ``<unk>``.

    ``adds_bos`` and ``adds_eos``: what encoding puts around a text; ``has_pad`` and ``has_eos``:
    whether the tokenizer names such a token at all. ``chat_template``: such as ``CHAT``.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ("<pad>", "<s>", "</s>", "<unk>")
    names = (*specials, *WORDS)
    names += tuple(f"w{i}" for i in range(len(names), VOCABULARY))
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    around = f"{'<s> ' if adds_bos else ''}$A{' </s>' if adds_eos else ''}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    named = {"pad_token": "<pad>"} if has_pad else {}
    named |= {"eos_token": "</s>"} if has_eos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        unk_token="<unk>",
        padding_side=padding_side,
        chat_template=chat_template,
        **named,
    )


class TinyModels:
    """The session's one model of each family, built when first asked for."""

    def __init__(self) -> None:
        self._models: dict[str, PreTrainedModel] = {}
        self._as_built: dict[str, dict[str, torch.Tensor]] = {}
        self._asked_for: set[str] = set()  # since the last check

    def __call__(self, family: str) -> PreTrainedModel:
        """The shared model of ``family``. Leave it as you found it."""
        self._asked_for.add(family)
        if family not in self._models:
            model = self._models[family] = build(family)
            self._as_built[family] = {k: v.clone() for k, v in model.state_dict().items()}
        return self._models[family]

    def damage(self, *, to_all: bool = False) -> list[str]:
        """What differs from the models as built: those asked for since the last check, or all.

        A damaged model is built anew when it is next asked for.
        """
        families = sorted(self._models if to_all else self._asked_for & self._models.keys())
        self._asked_for.clear()
        found = [(family, self._damage_to(family)) for family in families]
        for family, problem in found:
            if problem:
                del self._models[family]
        return [f"{family}: {problem}" for family, problem in found if problem]

    def _damage_to(self, family: str) -> str:
        model, built = self._models[family], self._as_built[family]
        state = model.state_dict()
        if state.keys() != built.keys():
            return f"tensors came or went: {sorted(state.keys() ^ built.keys())}"
        for name, tensor in state.items():
            if not tensor.equal(built[name]):
                return f"{name} has other values"
        for name, module in model.named_modules():
            if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
                return f"{name or 'the model'} still carries a hook"
        return "it is in training mode" if model.training else ""


@pytest.fixture(scope="session")
def tiny_model() -> Iterator[TinyModels]:
    """``tiny_model(family)``: a model that all tests of the session share."""
    models = TinyModels()
    yield models
    damage = models.damage(to_all=True)
    assert not damage, "a shared model was changed by a test that kept it from an earlier one"


@pytest.fixture(scope="session")
def fresh_tiny_model(tiny_model: TinyModels) -> Callable[[str], PreTrainedModel]:
    """``fresh_tiny_model(family)``: a copy that the test may change."""
    return lambda family: copy.deepcopy(tiny_model(family))


@pytest.fixture(autouse=True)
def _shared_models_stay_as_built(tiny_model: TinyModels) -> Iterator[None]:
    yield
    if damage := tiny_model.damage():
        pytest.fail(f"a shared model was changed; use fresh_tiny_model. {'; '.join(damage)}")


@pytest.fixture(scope="session")
def word_tokenizer() -> Callable[..., PreTrainedTokenizerBase]:
    """``word_tokenizer(padding_side=..., has_pad=...)``: see ``build_tokenizer``."""
    return build_tokenizer


@pytest.fixture(scope="session")
def sentence_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny sentence encoder with random weights."""
    return save_sentence_encoder(tmp_path_factory.mktemp("sentence-encoder"))


def save_sentence_encoder(folder: Path, seed: int = 0) -> Path:
    """`folder`, with a tiny sentence encoder in it, drawn with `seed`."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=64, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
