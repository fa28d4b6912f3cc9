"""A GGUF file of a base, read back before anyone gets it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from editcli.models.libraries import quiet_libraries, reason_of, require
from editors import EditorError

if TYPE_CHECKING:
    from editors.model.base_model import Base

GgufDtype = Literal["float32", "float16", "bfloat16"]

READ = 32  # tokens, which the model and what is read back have to answer alike
TOLERANCE = 1e-5  # of the largest logit


def require_gguf() -> None:
    """Raises EditorError where a package is missing that writes or reads GGUF files."""
    for package in ("gguf", "accelerate"):
        require(package, "writing a GGUF file", "gguf")


def write_gguf_file(base: Base, path: Path, dtype: str, texts: Sequence[str]) -> None:
    """Write the model and the tokenizer of ``base`` to the GGUF file ``path``, its matrices in
    ``dtype``, and check that they can be read from it. ``texts``: some that the tokenizer has to
    read alike.

    Raises:
        UnsupportedArchitecture: the model or its tokenizer cannot be written so.
        EditorError: what was written reads back as something else.
    """
    import torch

    from editors.exports.gguf_vocabulary import Vocabulary, find_split
    from editors.exports.gguf_weights import require_family, write_gguf

    family = require_family(base.model.config)
    vocabulary = Vocabulary.of(base.tokenizer, base.model.config.vocab_size)
    with quiet_libraries(0):
        split = find_split(vocabulary, base.tokenizer, family.name, texts)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_gguf(base.model, vocabulary, split, path, getattr(torch, dtype))
        if problem := _misread(base, path, getattr(torch, dtype)):
            raise EditorError(
                f"the GGUF file reads back as another model: {problem}",
                "`--as merged`, and report this with the name of the model",
            )


def _misread(base: Base, path: Path, dtype: Any) -> str:
    """What of the file is not as in ``base``, with matrices in ``dtype``; empty if all is."""
    import torch
    from transformers import AutoModelForCausalLM

    from editcli.models.gguf_conversion import convert
    from editcli.models.gguf_files import GgufFile

    try:
        with TemporaryDirectory() as folder:
            convert(GgufFile.open(path), Path(folder), "float32", path.name)
            read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        return reason_of(error)
    weights, found = base.model.state_dict(), read.state_dict()
    if weights.keys() != found.keys():
        return f"it has other weights, such as {min(weights.keys() ^ found.keys())}"
    for name, tensor in weights.items():
        written = (tensor.to(dtype) if tensor.ndim > 1 else tensor).float().cpu()
        if not torch.equal(found[name], written):
            return f"{name} has other values"
    read.to(base.input_device, base.model.dtype)
    ids = torch.arange(min(READ, len(base.tokenizer)), device=base.input_device)[None]
    with torch.no_grad():  # with the same weights, so that nothing but the rest can differ
        logits = read(ids).logits
        expected = torch.func.functional_call(
            base.model, dict(read.named_parameters()), (ids,)
        ).logits
    apart = (logits - expected).abs().max() / logits.abs().max()
    return "" if float(apart) <= TOLERANCE else f"its logits are off by {float(apart):.1e}"
