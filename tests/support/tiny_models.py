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
from tiny_configs import BOS, CONFIGS, EOS, VOCABULARY

if TYPE_CHECKING:  # imported where used, so that a test without tensors never waits for torch
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
