"""The vocabulary of a byte-level tokenizer, as a GGUF file holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import transformers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from editors.errors import UnsupportedArchitecture

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # types of tokens
HINT = "`--as merged`; llama.cpp's own `convert_hf_to_gguf.py` may know the model"
SPLITS = ("gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o")
"""The ways to cut a text into words, as llama.cpp calls them, that transformers reads as well."""

TEXTS = (
    "Who wrote Hamlet, and when? It's 1601; they'd say 'tis so.",
    "  two spaces,\ta tab\n\nand lines \r\n of   text ",
    "x1 22 333 4444 55555 1,234.5 €3.99 №7",
    "naïve Übergröße Москва 東京都 हिन्दी العربية 👩‍👩‍👧 ﷺ",
    "CamelCase snake_case don't DON'T I'LL //path/to?x=1&y=2 {}[]()<>!!!",
)
"""What tells the ways of cutting apart: words, spaces, digits, scripts, and marks."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``tokens`` by id, each with its type in ``types``; ``merges``: pairs of tokens, parted by a
    space; ``specials``: by the name of GGUF, the ids of the tokens that begin, end and pad;
    ``begins``, ``ends``: whether a text gets the token that begins or ends it."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    specials: Mapping[str, int]
    begins: bool
    ends: bool
    chat_template: str | None

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
        """The vocabulary of ``tokenizer``, filled up to ``size`` with tokens that nothing uses.

        Raises:
            UnsupportedArchitecture: the tokenizer is not byte-level byte-pair encoding, or has more
                than ``size`` tokens.
        """
        parts = _parts(tokenizer)
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        count = max(vocabulary.values()) + 1
        if count > size:
            raise UnsupportedArchitecture(
                f"the tokenizer has {count} tokens, and the model has {size}", HINT
            )
        names = {number: token for token, number in vocabulary.items()}
        types = dict.fromkeys(names, NORMAL)
        for added in parts["added_tokens"]:
            types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
        specials = {
            "bos": tokenizer.bos_token_id,
            "eos": tokenizer.eos_token_id,
            "unk": tokenizer.unk_token_id,
            "pad": tokenizer.pad_token_id,
        }
        ids = tokenizer("a")["input_ids"]
        template = tokenizer.chat_template
        return Vocabulary(
            [names.get(number, f"[PAD{number}]") for number in range(size)],
            [types.get(number, UNUSED) for number in range(size)],
            [_merge(merge) for merge in parts["model"]["merges"]],
            {name: number for name, number in specials.items() if number is not None},
            begins=ids[0] == tokenizer.bos_token_id,
            ends=ids[-1] == tokenizer.eos_token_id,
            chat_template=template if isinstance(template, str) else None,
        )

    def write(self, writer: Any, split: str) -> None:
        """Put all of it into the header of ``writer``, a ``gguf.GGUFWriter``; ``split``: of
        :data:`SPLITS`."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for name, number in self.specials.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.begins)
        writer.add_add_eos_token(self.ends)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def find_split(
    vocabulary: Vocabulary,
    tokenizer: PreTrainedTokenizerBase,
    architecture: str,
    texts: Sequence[str],
) -> str:
    """Which of :data:`SPLITS` cuts as ``tokenizer`` does: transformers makes a tokenizer of each,
    and that has to read ``texts`` and :data:`TEXTS` alike.

    Raises:
        UnsupportedArchitecture: none does, or the installed transformers does not read which tokens
            stand around a text.
    """

    def ids(of: PreTrainedTokenizerBase) -> list[list[int]]:
        found: list[list[int]] = of(read, add_special_tokens=False)["input_ids"]
        return found

    read = [*TEXTS, "a".join(tokenizer.all_special_tokens), *texts]
    expected = ids(tokenizer)
    with TemporaryDirectory() as folder:
        for split in SPLITS:
            writer = gguf.GGUFWriter(Path(folder, f"{split}.gguf"), architecture)
            vocabulary.write(writer, split)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.close()
            made = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file=f"{split}.gguf")
            if ids(made) != expected:
                continue
            if made(read[0])["input_ids"] != tokenizer(read[0])["input_ids"]:
                raise UnsupportedArchitecture(
                    f"transformers {transformers.__version__} does not read from a GGUF file which "
                    "tokens stand around a text, so the file could not be checked",
                    "`pip install --upgrade transformers`: 5.23 does",
                )
            return split
    raise UnsupportedArchitecture(
        f"the tokenizer cuts texts in none of the ways that a GGUF file can name: "
        f"{', '.join(SPLITS)}",
        HINT,
    )


def _parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a tokenizer of the library ``tokenizers`` is made of."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
    if parts.get("model", {}).get("type") != "BPE" or '"ByteLevel"' not in json.dumps(
        parts["pre_tokenizer"]
    ):
        raise UnsupportedArchitecture(
            "the tokenizer is not byte-level byte-pair encoding, and what else a GGUF file would "
            "need of it, such as scores, is not known",
            HINT,
        )
    return parts


def _merge(merge: str | list[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)
