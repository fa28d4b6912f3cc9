"""From a GGUF file to a folder that `save_pretrained` might have written, with dense weights.

transformers reads the file. What it makes of one cannot be saved as it is: its configuration says
that the model is quantised. So the weights go into a model that is built anew.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from editcli.models.gguf_files import GgufFile
from editors import EditorError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WEIGHTS, VOCABULARY = "weights.gguf", "vocabulary.gguf"
CONTROL = 3  # the type of tokens that are no text
ENDS = (  # how families call the tokens that end a text, or a turn of a chat
    *("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>"),
    *("<|im_end|>", "<|eot_id|>", "<|end|>", "<|eot|>", "<end_of_turn>"),
)
ENDS_BY_KEY = ("eos_token_id", "eot_token_id", "eom_token_id")


def convert(file: GgufFile, folder: Path, dtype: str, shown: str) -> None:
    """Save the model of ``file`` in ``dtype``, and its tokenizer, into ``folder``.

    ``shown``: the model's name in errors.

    Raises:
        EditorError: the file holds no causal language model, or only a part of one.
        OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError:
            a library cannot read the file or write the folder.
    """
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    file.write_weights(folder / WEIGHTS)
    with redirect_stderr(io.StringIO()), _each_table_made_once():  # a progress bar has no switch
        config = _config(file, folder, shown)
        packed, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            gguf_file=WEIGHTS,
            dtype=getattr(torch, dtype),
            quantization_config=GgufConfig(dequantize=True),
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = _tokenizer(file, folder)
    if missing := sorted(loading["missing_keys"]):
        raise EditorError(
            f"{shown} lacks {len(missing)} of the weights, such as {missing[0]}",
            "a model that is split over several files has to be merged into one",
        )
    config.pad_token_id = tokenizer.pad_token_id
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(packed.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = _end_ids(file, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / WEIGHTS).unlink()


def read_config(file: GgufFile, shown: str) -> Any:
    """The configuration of the model of ``file``, from its header; errors are those of
    :func:`convert`."""
    with (
        TemporaryDirectory() as folder,
        redirect_stderr(io.StringIO()),
        _each_table_made_once(),
    ):
        file.write_outline(Path(folder, WEIGHTS))
        return _config(file, Path(folder), shown)


def read_tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """The tokenizer of ``file``, as :func:`convert` saves it; errors are those of
    :func:`convert`."""
    with TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        return _tokenizer(file, Path(folder))


def _tokenizer(file: GgufFile, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of ``file``, read by way of ``folder``."""
    from transformers import PreTrainedTokenizerFast

    file.write_vocabulary(folder / VOCABULARY)
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
        folder, gguf_file=VOCABULARY
    )
    (folder / VOCABULARY).unlink()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _config(file: GgufFile, folder: Path, shown: str) -> Any:
    """The configuration of ``file``, whose weights or outline are in ``folder``."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(
        folder, gguf_file=WEIGHTS, vocab_size=file.vocabulary_size, trust_remote_code=False
    )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise EditorError(
            f"{shown} is not a causal language model: its type is {config.model_type!r}",
            "name a causal language model",
        )
    _shorten_decimals(config)
    return config


def _end_ids(file: GgufFile, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """The ids of all tokens that end an answer: a header names one, and a model that chats also
    ends a plain text with another."""
    named = (file.metadata.get(f"tokenizer.ggml.{key}") for key in ENDS_BY_KEY)
    ids = {token for token in named if isinstance(token, int)}
    kinds = file.metadata.get("tokenizer.ggml.token_type")
    kinds = kinds if isinstance(kinds, list) else []
    control = {token for token, kind in enumerate(kinds) if kind == CONTROL}
    ids |= control & {token for name, token in tokenizer.get_vocab().items() if name in ENDS}
    return sorted(ids) or None


def _shorten_decimals(config: Any) -> None:
    """Give numbers that the header holds in 32 bits the decimals that they were written with: 1e-5
    for 0.00000999999974..."""
    import numpy as np

    for key, value in config.to_dict().items():
        if isinstance(value, float) and float(np.float32(value)) == value:
            setattr(config, key, float(str(np.float32(value))))


@contextmanager
def _each_table_made_once() -> Iterator[None]:
    """Inside ``with``, gguf makes its table of names of tensors once for each architecture.

    transformers asks for the table once for each module of a model, which takes more than half of
    the time of a conversion.
    """
    import gguf

    made = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = cache(made)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = made
