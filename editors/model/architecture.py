"""Where a decoder model keeps its projections and heads, read from its structure alone.

The model's name and type are never consulted. Blocks are the one stack of checkpointable layers;
within a block two tables of leaf names, together with the place of the leaf (under the attention
or not) and its output width, single out the two projections that write to the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from editors.errors import EditorError, UnsupportedArchitecture
from editors.model.projection import ELSEWHERE, Projection, unwrapped, widths_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION_OUT = frozenset({"o_proj", "out_proj", "dense", "c_proj", "wo"})
MLP_DOWN = frozenset({"down_proj", "dense_4h_to_h", "fc_out", "fc2", "c_proj", "w2"})
DEPTH = (27, 32)  # WISE edits layer 27 of the 32 of LLaMA-2-7B; other depths keep the fraction
SHOWN = 8  # candidates named in an error

HEADS_ONLY = "its facts cannot be edited; `editcli conflict` works on its heads"


@dataclass(frozen=True, slots=True)
class Block:
    """One decoder layer. ``attention`` is the path of the attention module.

    ``why_not`` says what is missing and why; empty when both projections were found.
    """

    index: int
    path: str
    attention: str | None
    attention_out: Projection | None
    mlp_down: Projection | None
    why_not: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """The blocks of a decoder and the sizes that do not depend on the block.

    ``n_heads`` counts query heads; ``n_kv_heads`` the key-value heads they share. ``context`` is
    the longest input in tokens, None where the model has no limit of its own.
    """

    blocks: tuple[Block, ...]
    hidden_size: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    context: int | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Architecture:
        """Read the architecture of ``model``; nothing is run and nothing is changed.

        Raises:
            UnsupportedArchitecture: an encoder-decoder, no single stack of blocks, or no block
                with a projection; the candidates are named.
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
        return cls(
            blocks=blocks,
            hidden_size=hidden,
            n_heads=heads,
            n_kv_heads=_kv_heads(config, heads),
            vocab_size=_size(config, "vocab_size"),
            context=_context(config),
        )

    def block(self, layer: int) -> Block:
        """Block ``layer``, counted from 0; raises EditorError naming the valid range."""
        if not 0 <= layer < len(self.blocks):
            raise EditorError(
                f"layer {layer} is not one of 0 to {len(self.blocks) - 1}",
                f"`--layer {self.default_layer()}`",
            )
        return self.blocks[layer]

    def default_layer(self) -> int:
        """The block at 27/32 of the depth, or the editable one nearest to it; never the last.

        A model of one block has only the last to offer.
        """
        last = max(len(self.blocks) - 2, 0)
        wanted = min(len(self.blocks) * DEPTH[0] // DEPTH[1], last)
        editable = [block.index for block in self.blocks[: last + 1] if block.mlp_down]
        return min(editable, key=lambda i: abs(i - wanted), default=wanted)

    def editable(self, layer: int) -> Projection:
        """The MLP down-projection of ``layer``.

        Raises:
            UnsupportedArchitecture: the block has none; the reason is given.
            EditorError: no such layer.
        """
        block = self.block(layer)
        if block.mlp_down is None:
            others = any(other.mlp_down for other in self.blocks)
            raise UnsupportedArchitecture(
                f"layer {layer} cannot be edited: {block.why_not}",
                f"`--layer {self.default_layer()}`" if others else HEADS_ONLY,
            )
        return block.mlp_down

    def head_dim(self, layer: int) -> int:
        """Width of one head at the input of the attention output projection of ``layer``.

        Taken from the projection: what configurations say is wrong or absent on many models.
        Raises UnsupportedArchitecture where there is no such projection or heads do not fit it.
        """
        block = self.block(layer)
        if block.attention_out is None:
            raise UnsupportedArchitecture(f"layer {layer} has no heads: {block.why_not}")
        width = block.attention_out.in_features
        if self.n_heads < 1 or width % self.n_heads:
            raise UnsupportedArchitecture(
                f"{block.attention_out.path} takes {width} features, "
                f"which {self.n_heads} heads do not divide"
            )
        return width // self.n_heads

    def head_slice(self, layer: int, head: int) -> slice:
        """The input features of the attention output projection that ``head`` writes.

        Raises EditorError for a head out of range, and as ``head_dim``.
        """
        self._check_head(head)
        width = self.head_dim(layer)
        return slice(head * width, (head + 1) * width)

    def _check_head(self, head: int) -> None:
        if not 0 <= head < self.n_heads:
            raise EditorError(f"head {head} is not one of 0 to {self.n_heads - 1}")


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
    # `multi_query` comes first: such models share one key-value head whatever else they say,
    # but for those that also declare the newer grouped layout.
    if getattr(config, "multi_query", False) and not getattr(
        config, "new_decoder_architecture", False
    ):
        return min(heads, 1)
    for name in ("num_key_value_heads", "num_kv_heads"):
        groups = getattr(config, name, None)
        if isinstance(groups, int) and 0 < groups <= heads and heads % groups == 0:
            return groups
    return heads


def _context(config: Any) -> int | None:
    # ALiBi models extrapolate: the number they carry is the length of their training rows.
    if getattr(config, "alibi", False):
        return None
    value = getattr(config, "max_position_embeddings", None)
    return value if isinstance(value, int) and value > 0 else None


def _block_stack(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    lists = {path: m for path, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    stacks = {
        path: modules
        for path, modules in lists.items()
        if len(modules) and all(isinstance(m, GradientCheckpointingLayer) for m in modules)
    }
    if len(stacks) > 1:  # vision or audio towers beside the text decoder
        decoder = model.get_decoder()
        inside = {id(module) for module in decoder.modules()}
        stacks = {path: modules for path, modules in stacks.items() if id(modules) in inside}
    if len(stacks) != 1:
        found = [
            f"{path} ({len(modules)} x {type(modules[0]).__name__})"
            for path, modules in (stacks or lists).items()
            if len(modules)
        ]
        what = "several stacks" if stacks else "no stack"
        raise UnsupportedArchitecture(
            f"a {type(model).__name__} has {what} of decoder blocks; candidates: {_listed(found)}"
        )
    return next(iter(stacks.items()))


def _block(model: nn.Module, index: int, path: str, hidden: int) -> Block:
    block = model.get_submodule(path)
    attentions = [
        name for name, m in block.named_modules() if name and type(m).__name__.endswith("Attention")
    ]
    writers = [name for name, widths in _linears(block) if widths[1] == hidden]
    under = [n for n in writers if any(n.startswith(f"{a}.") for a in attentions)]
    beside = [n for n in writers if n not in under]
    attention_out = [n for n in under if _leaf(n) in ATTENTION_OUT]
    mlp_down = [n for n in beside if _leaf(n) in MLP_DOWN]

    reasons = []
    if len(mlp_down) != 1:
        reasons.append(_why_no_mlp(block, mlp_down, beside))
    if not attentions:
        reasons.append("it has no attention")
    elif len(attention_out) != 1:
        reasons.append(_why("attention output projection", attention_out, under))
    return Block(
        index=index,
        path=path,
        attention=f"{path}.{_holder(attentions, attention_out)}" if attentions else None,
        attention_out=_only(model, path, attention_out),
        mlp_down=_only(model, path, mlp_down),
        why_not="; ".join(reasons),
    )


def vocabulary_projection(model: PreTrainedModel) -> str:
    """The path of the module that makes logits of the last hidden states."""
    head = model.get_output_embeddings()
    path: str = next(name for name, module in model.named_modules() if module is head)
    return path


def _holder(attentions: Sequence[str], found: Sequence[str]) -> str:
    # The outermost, since named_modules lists parents first: its output is what the block adds.
    holding = [name for name in attentions if found and found[0].startswith(f"{name}.")]
    return (holding or attentions)[0]


def _only(model: nn.Module, path: str, names: Sequence[str]) -> Projection | None:
    return Projection.at(model, f"{path}.{names[0]}") if len(names) == 1 else None


def _why_no_mlp(block: nn.Module, found: Sequence[str], candidates: Sequence[str]) -> str:
    experts = next(
        (n for n, m in block.named_modules() if n and type(m).__name__.endswith("Experts")), None
    )
    if experts is not None and not found:
        return f"it is a mixture of experts, whose weights {experts} keeps fused in one tensor"
    return _why("MLP down-projection", found, candidates)


def _why(what: str, found: Sequence[str], candidates: Sequence[str]) -> str:
    if found:
        return f"it has {len(found)} modules that could be the {what}: {_listed(found)}"
    return f"it has no known {what}; candidates: {_listed(candidates)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "none"


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _linears(block: nn.Module) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, module in block.named_modules():
        # What a wrapper wraps is reached through the wrapper, under the wrapper's own name.
        if not name or "base_layer" in name.split("."):
            continue
        if (widths := widths_of(unwrapped(module))) is not None:
            yield name, widths
