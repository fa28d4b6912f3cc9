"""The blocks, projections and heads of a decoder model, read from its structure alone.

The model's name and type are never consulted. The blocks are the only stack of checkpointable
layers. Two projections of a block write to the residual stream: the attention output and the MLP
down-projection. Each is identified by its last name (two tables below), by whether it lies inside
the attention module, and by its output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from editors.errors import EditorError, UnsupportedArchitecture
from editors.model.projection import ELSEWHERE, Projection, unwrapped, widths_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION_OUT = frozenset({"o_proj", "out_proj", "dense", "c_proj", "wo"})
MLP_DOWN = frozenset({"down_proj", "dense_4h_to_h", "fc_out", "fc2", "c_proj", "w2"})
# WISE (arXiv 2405.14768) edits layer 27 of 32 in LLaMA-2-7B. Other depths keep the ratio.
DEPTH = Fraction(27, 32)
SHOWN = 8  # candidates named in an error

HEADS_ONLY = "its facts cannot be edited; `editcli conflict` works on its heads"


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder layer.

    ``attention``: the path of the attention module. ``why_not``: which projections are missing and
    why, or why the block has no attention; empty if nothing is missing.
    """

    index: int
    path: str
    attention: str | None
    attention_out: Projection | None
    mlp_down: Projection | None
    why_not: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """The blocks of a decoder, and the sizes that all blocks share.

    ``n_heads``: the query heads of a layer; ``n_kv_heads``: the key-value heads that they share.
    ``context``: the longest input in tokens, None if the model has no limit.
    """

    blocks: tuple[Block, ...]
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    context: int | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Architecture:
        """Read the architecture of ``model``. Nothing is run and nothing is changed.

        Raises:
            UnsupportedArchitecture: the model is an encoder-decoder, has no single stack of blocks,
                or no block has one of the two projections; the candidates are named.
        """
        config = _text_config(model)
        path, stack = _block_stack(model)
        hidden = _size(config, "hidden_size")
        blocks = tuple(_block(model, i, f"{path}.{i}", hidden) for i in range(len(stack)))
        if not any(block.attention_out or block.mlp_down for block in blocks):
            raise UnsupportedArchitecture(
                f"no block has an attention output or an MLP down-projection; in {path}.0: "
                f"{blocks[0].why_not}",
                ELSEWHERE,
            )
        heads = _size(config, "num_attention_heads") if any(b.attention for b in blocks) else 0
        kv_heads, vocabulary = _kv_heads(config, heads), _size(config, "vocab_size")
        return cls(blocks, heads, kv_heads, vocabulary, _context(config))

    def block(self, layer: int) -> Block:
        """Block ``layer``, counted from 0; raises EditorError naming the valid range."""
        if not 0 <= layer < len(self.blocks):
            raise EditorError(
                f"layer {layer} is not one of 0 to {len(self.blocks) - 1}",
                f"`--layer {self.default_layer()}`",
            )
        return self.blocks[layer]

    def default_layer(self, depth: Fraction = DEPTH) -> int:
        """The block at this share of the depth, or the nearest block that can be edited.

        The last block is chosen only in a model with a single block.
        """
        last = max(len(self.blocks) - 2, 0)
        wanted = min(int(len(self.blocks) * depth), last)
        editable = [block.index for block in self.blocks[: last + 1] if block.mlp_down]
        return min(editable, key=lambda i: abs(i - wanted), default=wanted)

    def layer_at(self, layer: int | Fraction) -> int:
        """``layer`` itself, or the :meth:`default_layer` at that share of the depth."""
        return layer if isinstance(layer, int) else self.default_layer(layer)

    def editable(self, layer: int) -> Projection:
        """The MLP down-projection of ``layer``.

        Raises:
            UnsupportedArchitecture: the block has no single MLP down-projection; the message says
                why.
            EditorError: there is no such layer.
        """
        block = self.block(layer)
        if block.mlp_down is None:
            any_editable = any(other.mlp_down for other in self.blocks)
            raise UnsupportedArchitecture(
                f"layer {layer} cannot be edited: {block.why_not}",
                f"`--layer {self.default_layer()}`" if any_editable else HEADS_ONLY,
            )
        return block.mlp_down

    def head_slice(self, layer: int, head: int) -> slice:
        """The input features of the attention output projection that hold the output of ``head``.

        The width is that of the projection, as the configurations of many models have no width or
        a wrong one. Raises UnsupportedArchitecture if ``layer`` has no such projection, or if the
        heads do not divide its width, and EditorError if there is no such layer or head.
        """
        if not 0 <= head < self.n_heads:
            raise EditorError(f"head {head} is not one of 0 to {self.n_heads - 1}")
        block = self.block(layer)
        if block.attention_out is None:
            raise UnsupportedArchitecture(f"layer {layer} has no heads: {block.why_not}")
        width, rest = divmod(block.attention_out.in_features, self.n_heads)
        if rest:
            raise UnsupportedArchitecture(
                f"{block.attention_out.path} takes {block.attention_out.in_features} features, "
                f"which {self.n_heads} heads do not divide"
            )
        return slice(head * width, (head + 1) * width)


def _text_config(model: PreTrainedModel) -> Any:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise UnsupportedArchitecture(
            f"a {type(model).__name__} has no model configuration",
            "`AutoModelForCausalLM.from_pretrained(...)`",
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedArchitecture(
            f"a {type(model).__name__} is an encoder-decoder, only decoders can be edited"
        )
    return config.get_text_config(decoder=True)


def _size(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    if not isinstance(value, int) or value < 1:
        raise UnsupportedArchitecture(f"the configuration gives {name} = {value!r}")
    return value


def _kv_heads(config: Any, heads: int) -> int:
    # `multi_query` is tested first: such models share one key-value head whatever else their
    # configuration says, except those that also declare the newer grouped layout.
    grouped = getattr(config, "new_decoder_architecture", False)
    if getattr(config, "multi_query", False) and not grouped:
        return min(heads, 1)
    for name in ("num_key_value_heads", "num_kv_heads"):
        groups = getattr(config, name, None)
        if isinstance(groups, int) and 0 < groups <= heads and heads % groups == 0:
            return groups
    return heads


def _context(config: Any) -> int | None:
    # ALiBi models extrapolate. The number in their configuration is the length of training rows.
    if getattr(config, "alibi", False):
        return None
    value = getattr(config, "max_position_embeddings", None)
    return value if isinstance(value, int) and value > 0 else None


def _block_stack(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    modules = model.named_modules()
    lists = {path: m for path, m in modules if isinstance(m, nn.ModuleList) and len(m)}
    stacks = {
        path: stack
        for path, stack in lists.items()
        if all(isinstance(module, GradientCheckpointingLayer) for module in stack)
    }
    if len(stacks) > 1:  # vision or audio towers beside the text decoder
        decoder = set(model.get_decoder().modules())
        stacks = {path: stack for path, stack in stacks.items() if stack in decoder}
    if len(stacks) != 1:
        candidates = [
            f"{path} ({len(stack)} x {type(stack[0]).__name__})"
            for path, stack in (stacks or lists).items()
        ]
        what = "several stacks" if stacks else "no stack"
        raise UnsupportedArchitecture(
            f"a {type(model).__name__} has {what} of decoder blocks; "
            f"candidates: {_listed(candidates)}"
        )
    return next(iter(stacks.items()))


def _block(model: nn.Module, index: int, path: str, hidden: int) -> Block:
    modules = dict(model.get_submodule(path).named_modules())
    attentions = [name for name, m in modules.items() if type(m).__name__.endswith("Attention")]
    writers = [
        name
        for name, module in modules.items()
        # A wrapped module is read through its wrapper, under the name of the wrapper.
        if "base_layer" not in name.split(".")
        and (widths_of(unwrapped(module)) or (0, 0))[1] == hidden
    ]
    in_attention = [n for n in writers if any(n.startswith(f"{a}.") for a in attentions)]
    outside = [n for n in writers if n not in in_attention]
    experts = next((n for n, m in modules.items() if type(m).__name__.endswith("Experts")), None)
    fused = f"it is a mixture of experts, whose weights {experts} keeps fused in one tensor"
    without = "" if attentions else "it has no attention"
    mlp_down, why_no_mlp = _one_of(
        "MLP down-projection", outside, MLP_DOWN, fused if experts else ""
    )
    attention_out, why_no_heads = _one_of(
        "attention output projection", in_attention, ATTENTION_OUT, without
    )
    # The outermost attention module, as named_modules lists parents first: the block adds its
    # output to the residual stream.
    holders = [name for name in attentions if (attention_out or "").startswith(f"{name}.")]
    holder = next(iter(holders or attentions), None)
    return Block(
        index=index,
        path=path,
        attention=f"{path}.{holder}" if holder else None,
        attention_out=Projection.at(model, f"{path}.{attention_out}") if attention_out else None,
        mlp_down=Projection.at(model, f"{path}.{mlp_down}") if mlp_down else None,
        why_not="; ".join(filter(None, (why_no_mlp, why_no_heads))),
    )


def _one_of(
    what: str, names: Sequence[str], known: frozenset[str], why_none: str
) -> tuple[str | None, str]:
    """The one of ``names`` whose last part is ``known``, else None and why there is no such one.
    ``why_none``: why none is known, if that is not for the names."""
    matches = [name for name in names if name.rpartition(".")[2] in known]
    if len(matches) == 1:
        return matches[0], ""
    if matches:
        return None, f"it has {len(matches)} modules that could be the {what}: {_listed(matches)}"
    return None, why_none or f"it has no known {what}; candidates: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "none"


def vocabulary_projection(model: PreTrainedModel) -> str:
    """The path of the module that turns the final hidden states into logits."""
    projection = model.get_output_embeddings()
    path: str = next(name for name, module in model.named_modules() if module is projection)
    return path
