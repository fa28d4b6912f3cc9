"""What is read of a model's structure, and of its projections, on a tiny model of every family."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_configs import BLOCKS, CONTEXT, EDITABLE, HEADS, HIDDEN, VOCABULARY
from torch import nn

from editors import METHODS
from editors.errors import EditorError, StateMismatch, UnsupportedArchitecture
from editors.model.architecture import Architecture, Block
from editors.model.projection import Projection

WITH_HEADS = (*EDITABLE, "mixtral", "deepseek_v3")
IDS = torch.tensor([[1, 5, 9, 17, 33, 65, 12]])


def watched(model, paths):
    """Outputs of the modules at ``paths`` in one pass over IDS, and the inputs of each."""
    seen, handles = {}, []
    for path in paths:

        def hook(_, args, kwargs, output, path=path):
            inputs = args[0] if args else kwargs["hidden_states"]
            written = output[0] if isinstance(output, tuple) else output
            seen[path] = (inputs.clone(), written.clone())  # falcon adds to these in place

        module = model.get_submodule(path)
        handles.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        with torch.no_grad():
            model(IDS, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def projections(architecture):
    for block in architecture.blocks:
        for projection in (block.mlp_down, block.attention_out):
            if projection is not None:
                yield projection


# Projections


@pytest.mark.parametrize("family", EDITABLE)
def test_every_block_has_both_projections_writing_the_hidden_size(tiny_model, family):
    architecture = Architecture.of(tiny_model(family))
    assert len(architecture.blocks) == BLOCKS
    for index, block in enumerate(architecture.blocks):
        assert block.index == index
        assert block.why_not == ""
        assert block.mlp_down.out_features == block.attention_out.out_features == HIDDEN
        assert block.attention_out.path.startswith(f"{block.attention}.")
        assert block.mlp_down.path.startswith(f"{block.path}.")
        assert not block.mlp_down.path.startswith(f"{block.attention}.")


@pytest.mark.parametrize("family", [*EDITABLE, "mixtral", "deepseek_v3", "qwen3_5_text"])
def test_weight_and_bias_compute_what_the_module_computes(tiny_model, family):
    model = tiny_model(family)
    for projection in projections(Architecture.of(model)):
        x = torch.randn(5, projection.in_features, generator=torch.Generator().manual_seed(2))
        weight, bias = projection.weight(model), projection.bias(model)
        assert tuple(weight.shape) == (projection.out_features, projection.in_features)
        ours = x @ weight.T + (0 if bias is None else bias)
        theirs = projection.module(model)(x)
        torch.testing.assert_close(ours, theirs.detach())


def test_a_square_transposed_weight_is_turned_the_right_way(tiny_model):
    model = tiny_model("gpt2")
    projection = Architecture.of(model).editable(0)
    assert projection.transposed
    assert projection.in_features == projection.out_features
    assert not torch.equal(projection.weight(model), projection.module(model).weight)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_weight_is_a_detached_view_of_the_models_own_memory(tiny_model, family):
    model = tiny_model(family)
    projection = Architecture.of(model).editable(1)
    weight = projection.weight(model)
    assert not weight.requires_grad
    assert weight.data_ptr() == projection.module(model).weight.data_ptr()


@pytest.mark.parametrize("family", EDITABLE)
def test_silencing_the_mlp_input_changes_only_what_the_mlp_adds(tiny_model, family):
    model = tiny_model(family)
    block = Architecture.of(model).block(1)
    paths = (block.path, block.attention, block.mlp_down.path)
    before = watched(model, paths)
    handle = block.mlp_down.module(model).register_forward_pre_hook(lambda _, a: (a[0] * 0,))
    try:
        after = watched(model, paths)
    finally:
        handle.remove()
    assert torch.equal(after[block.path][0], before[block.path][0])
    assert torch.equal(after[block.attention][1], before[block.attention][1])
    assert not torch.allclose(after[block.path][1], before[block.path][1], atol=1e-3)
    bias = block.mlp_down.bias(model)
    silent = torch.zeros(HIDDEN) if bias is None else bias
    # reshape: some families flatten [batch, seq] inside the block
    torch.testing.assert_close(
        after[block.mlp_down.path][1].reshape(-1, HIDDEN), silent.expand(IDS.shape[1], HIDDEN)
    )


@pytest.mark.parametrize("family", WITH_HEADS)
def test_attention_writes_exactly_what_its_output_projection_computes(tiny_model, family):
    model = tiny_model(family)
    for block in Architecture.of(model).blocks:
        seen = watched(model, (block.attention, block.attention_out.path))
        attention, written = seen[block.attention][1], seen[block.attention_out.path][1]
        if attention.shape == written.shape and family != "bloom":  # bloom adds the residual itself
            assert torch.equal(attention, written)
        else:
            assert family == "bloom"


# Heads


@pytest.mark.parametrize("family", WITH_HEADS)
def test_head_slices_add_up_to_the_attention_output(tiny_model, family):
    model = tiny_model(family)
    architecture = Architecture.of(model)
    for block in architecture.blocks:
        projection = block.attention_out
        width = projection.in_features
        x = torch.randn(3, width, generator=torch.Generator().manual_seed(3))
        weight, bias = projection.weight(model), projection.bias(model)
        total = torch.zeros(3, HIDDEN) if bias is None else bias.expand(3, HIDDEN)
        covered = []
        for head in range(architecture.n_heads):
            part = architecture.head_slice(block.index, head)
            covered += range(width)[part]
            total = total + x[:, part] @ weight[:, part].T
        assert covered == list(range(width))
        torch.testing.assert_close(total, projection.module(model)(x).detach())


@pytest.mark.parametrize(
    ("family", "width"), [("llama", 16), ("gemma2", 16), ("qwen2", 8), ("gpt2", 8), ("phi3", 16)]
)
def test_head_width_is_what_the_projection_takes_not_hidden_over_heads(tiny_model, family, width):
    assert Architecture.of(tiny_model(family)).head_slice(0, 1) == slice(width, 2 * width)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "phi", "olmo2", "starcoder2"])
@pytest.mark.parametrize("group", [0, 1])
def test_the_heads_that_share_a_key_value_head_lie_side_by_side(fresh_tiny_model, family, group):
    model = fresh_tiny_model(family)
    architecture = Architecture.of(model)
    block, width = architecture.block(1), architecture.head_slice(1, 0).stop
    path = block.attention_out.path
    before = watched(model, [path])[path][0].reshape(-1, HEADS, width)
    values = model.get_submodule(f"{block.attention}.v_proj").weight
    with torch.no_grad():
        values[group * width : (group + 1) * width] *= 2
    after = watched(model, [path])[path][0].reshape(-1, HEADS, width)
    changed = [head for head in range(HEADS) if not torch.allclose(before[:, head], after[:, head])]
    assert architecture.n_kv_heads == 2
    each = architecture.n_heads // architecture.n_kv_heads
    assert changed == list(range(group * each, (group + 1) * each))


@pytest.mark.parametrize(
    ("family", "groups"), [("gpt2", 4), ("opt", 4), ("bloom", 4), ("falcon", 2), ("mixtral", 2)]
)
def test_key_value_heads_are_counted(tiny_model, family, groups):
    assert Architecture.of(tiny_model(family)).n_kv_heads == groups


def test_a_multi_query_model_shares_one_key_value_head():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "falcon", vocab_size=96, hidden_size=32, num_hidden_layers=1, num_attention_heads=4
    )
    assert Architecture.of(AutoModelForCausalLM.from_config(config)).n_kv_heads == 1


@pytest.mark.parametrize("head", [-1, HEADS])
def test_a_head_out_of_range_is_refused_with_the_range(tiny_model, head):
    architecture = Architecture.of(tiny_model("llama"))
    with pytest.raises(EditorError, match=f"head {head} is not one of 0 to 3"):
        architecture.head_slice(0, head)


# Layers


def stub(editable, heads=4):
    """An architecture whose blocks are editable where ``editable`` says so."""
    projection = Projection("p", 48, 32, transposed=False)
    blocks = tuple(
        Block(i, f"b.{i}", None, None, projection if yes else None, "" if yes else "no reason")
        for i, yes in enumerate(editable)
    )
    return Architecture(blocks, heads, heads, 96, None)


@pytest.mark.parametrize(
    ("depth", "layer"), [(1, 0), (2, 0), (3, 1), (6, 4), (12, 10), (24, 20), (28, 23), (32, 27)]
)
def test_the_default_layer_is_27_of_32_of_the_depth(depth, layer):
    assert stub([True] * depth).default_layer() == layer


@pytest.mark.parametrize(("depth", "layer"), [(1, 0), (12, 10), (22, 20), (30, 28), (32, 30)])
def test_memories_of_single_facts_are_higher_up(depth, layer):
    share = METHODS.load("wise").depth({"profile": "separate"})
    assert stub([True] * depth).default_layer(share) == layer


@given(st.lists(st.booleans(), min_size=2, max_size=80))
def test_the_default_layer_is_never_the_last_and_editable_where_one_is(editable):
    layer = stub(editable).default_layer()
    assert 0 <= layer < len(editable) - 1
    assert editable[layer] or not any(editable[:-1])


@pytest.mark.parametrize("layer", [-1, BLOCKS, 99])
def test_a_layer_out_of_range_is_refused_with_the_range(tiny_model, layer):
    architecture = Architecture.of(tiny_model("llama"))
    with pytest.raises(EditorError, match=f"layer {layer} is not one of 0 to 2") as caught:
        architecture.editable(layer)
    assert caught.value.hint == "`--layer 1`"


def test_sizes_are_those_of_the_model(tiny_model):
    for family in (*EDITABLE, "mixtral"):
        architecture = Architecture.of(tiny_model(family))
        assert architecture.n_heads == HEADS
        assert architecture.vocab_size == VOCABULARY
        assert architecture.context == (None if family == "bloom" else CONTEXT)


# Models and blocks that cannot be edited


def test_a_mixture_of_experts_block_says_so_and_keeps_its_heads(tiny_model):
    architecture = Architecture.of(tiny_model("mixtral"))
    with pytest.raises(UnsupportedArchitecture, match="mixture of experts") as caught:
        architecture.editable(architecture.default_layer())
    assert "mlp.experts" in caught.value.message
    assert "`editcli conflict`" in caught.value.hint
    assert architecture.head_slice(1, 1) == slice(16, 32)


def test_a_block_without_attention_says_so_and_stays_editable(tiny_model):
    architecture = Architecture.of(tiny_model("qwen3_5_text"))
    assert [block.attention_out is None for block in architecture.blocks] == [True] * 3 + [False]
    assert architecture.editable(0).path.endswith("down_proj")
    with pytest.raises(UnsupportedArchitecture, match="layer 0 has no heads: it has no attention"):
        architecture.head_slice(0, 0)


def test_beside_routed_experts_the_shared_expert_is_the_projection(tiny_model):
    architecture = Architecture.of(tiny_model("deepseek_v3"))
    assert architecture.editable(0).path.endswith("mlp.down_proj")
    assert architecture.editable(1).path.endswith("mlp.shared_experts.down_proj")


def test_a_model_without_projections_is_refused_with_the_candidates(tiny_model):
    with pytest.raises(UnsupportedArchitecture) as caught:
        Architecture.of(tiny_model("mamba"))
    assert "it has no attention" in caught.value.message
    assert "candidates: mixer.out_proj" in caught.value.message


def test_two_possible_projections_are_both_named_rather_than_guessed(fresh_tiny_model):
    model = fresh_tiny_model("llama")
    model.model.layers[1].mlp.w2 = nn.Linear(8, HIDDEN)
    architecture = Architecture.of(model)
    with pytest.raises(UnsupportedArchitecture) as caught:
        architecture.editable(1)
    assert "2 modules" in caught.value.message
    assert "mlp.down_proj, mlp.w2" in caught.value.message
    assert caught.value.hint == "`--layer 0`"
    assert architecture.editable(architecture.default_layer())


def test_an_unknown_leaf_name_is_listed_as_a_candidate(fresh_tiny_model):
    model = fresh_tiny_model("llama")
    mlp = model.model.layers[1].mlp
    mlp.shrink = mlp.down_proj
    del mlp.down_proj
    with pytest.raises(UnsupportedArchitecture, match=r"candidates: mlp\.shrink"):
        Architecture.of(model).editable(1)


def test_a_stack_of_other_layers_is_refused_and_named(tiny_model):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4)])
            self.config = tiny_model("llama").config

    with pytest.raises(UnsupportedArchitecture, match=r"no stack .* layers \(1 x Linear\)"):
        Architecture.of(Plain())


def test_a_module_without_a_configuration_is_refused():
    with pytest.raises(UnsupportedArchitecture, match="a Linear has no model configuration"):
        Architecture.of(nn.Linear(2, 2))


def test_an_encoder_decoder_is_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=32, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedArchitecture, match="encoder-decoder"):
        Architecture.of(T5ForConditionalGeneration(config))


def test_the_text_decoder_is_found_beside_a_vision_tower():
    from transformers import AutoConfig, AutoModelForImageTextToText

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    text = {**small, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    vision = {**small, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
    config = AutoConfig.for_model(
        "gemma3",
        text_config={**text, "vocab_size": 96},
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=95,
        boi_token_index=94,
        eoi_token_index=93,
    )
    architecture = Architecture.of(AutoModelForImageTextToText.from_config(config))
    assert "language_model" in architecture.editable(0).path
    assert architecture.vocab_size == 96


# One projection by its path


def test_a_projection_is_found_by_path(tiny_model):
    model = tiny_model("gpt2")
    found = Projection.at(model, "transformer.h.1.mlp.c_proj")
    assert found == Architecture.of(model).editable(1)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("transformer.h.9.mlp.c_proj", "no module"), ("transformer.h.1.ln_1", "a LayerNorm")],
)
def test_a_path_to_no_projection_is_refused(tiny_model, path, reason):
    with pytest.raises(UnsupportedArchitecture, match=reason):
        Projection.at(tiny_model("gpt2"), path)


def test_a_projection_of_another_model_is_a_mismatch(tiny_model):
    projection = Architecture.of(tiny_model("llama")).editable(1)
    with pytest.raises(StateMismatch, match=r"no module 'model\.layers\.1\.mlp\.down_proj'"):
        projection.weight(tiny_model("gpt2"))


def test_a_projection_of_another_size_is_a_mismatch(fresh_tiny_model):
    model = fresh_tiny_model("llama")
    projection = Architecture.of(model).editable(1)
    model.model.layers[1].mlp.down_proj = nn.Linear(40, HIDDEN)
    with pytest.raises(StateMismatch, match=r"is \(32, 40\) where \(32, 48\) was expected"):
        projection.weight(model)


def test_a_wrapped_projection_still_answers_for_its_base_layer(fresh_tiny_model):
    model = fresh_tiny_model("gpt2")
    architecture = Architecture.of(model)
    projection = architecture.editable(1)
    digest = projection.digest(model)

    class Wrapper(nn.Module):
        def __init__(self, base_layer):
            super().__init__()
            self.base_layer = base_layer

    model.set_submodule(projection.path, Wrapper(projection.module(model)))
    assert Architecture.of(model) == architecture
    assert projection.digest(model) == digest
    assert projection.weight(model).shape == (HIDDEN, HIDDEN)


def test_a_weight_that_is_not_loaded_is_refused(fresh_tiny_model):
    model = fresh_tiny_model("llama").to("meta")
    projection = Architecture.of(model).editable(0)
    with pytest.raises(UnsupportedArchitecture, match="not in memory"):
        projection.digest(model)


def test_a_quantised_weight_is_not_handed_out_but_has_a_digest(fresh_tiny_model):
    model = fresh_tiny_model("llama")
    projection = Architecture.of(model).editable(0)
    packed = nn.Parameter(torch.zeros(64, dtype=torch.uint8), requires_grad=False)
    projection.module(model).weight = packed
    assert Architecture.of(model).editable(0) == projection
    with pytest.raises(UnsupportedArchitecture, match=r"quantised \(uint8\)"):
        projection.weight(model)
    assert len(projection.digest(model)) == 64


# Digests


def linear(weight, bias=None, dtype=torch.float32):
    model = nn.ModuleDict({"p": nn.Linear(3, 2, bias=bias is not None)}).to(dtype)
    with torch.no_grad():
        model["p"].weight.copy_(weight)
        if bias is not None:
            model["p"].bias.copy_(bias)
    return model


def digest(model):
    return Projection.at(model, "p").digest(model)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(0, 31))
def test_the_digest_changes_with_any_one_bit_and_comes_back(element, bit):
    model = linear(torch.arange(6.0).reshape(2, 3))
    before = digest(model)
    bits = model["p"].weight.detach().view(torch.int32).view(-1)
    flip = torch.tensor(1, dtype=torch.int64).bitwise_left_shift(bit).to(torch.int32)
    bits[element] ^= flip
    assert digest(model) != before
    bits[element] ^= flip
    assert digest(model) == before


def test_the_digest_tells_dtype_shape_and_bias_apart():
    weight = torch.zeros(2, 3)
    one = torch.zeros(2, dtype=torch.float32)
    digests = {
        digest(linear(weight)),
        digest(linear(weight, dtype=torch.bfloat16)),
        digest(linear(weight, dtype=torch.float16)),
        digest(linear(weight, bias=one)),
        digest(linear(weight, bias=one + 1)),
        digest(nn.ModuleDict({"p": nn.Linear(3, 2).requires_grad_(False)})),
    }
    assert len(digests) == 6


def test_the_digest_is_of_the_values_not_of_the_object(tiny_model, fresh_tiny_model):
    for family in ("gpt2", "llama"):
        projection = Architecture.of(tiny_model(family)).editable(1)
        assert projection.digest(tiny_model(family)) == projection.digest(fresh_tiny_model(family))


def test_the_digest_of_known_bytes_is_the_known_hash():
    import hashlib

    model = linear(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    stored = b"".join(
        value.to_bytes(4, "little")
        for value in (0x3F800000, 0x40000000, 0x40400000, 0x40800000, 0x40A00000, 0x40C00000)
    )
    assert digest(model) == hashlib.sha256(b"float32(2, 3)" + stored).hexdigest()


def test_heads_that_do_not_divide_the_projection_are_refused():
    projection = Projection("p", 50, 32, transposed=False)
    block = Block(0, "b.0", "b.0.attn", projection, None, "")
    architecture = Architecture((block,), 4, 4, 96, None)
    with pytest.raises(UnsupportedArchitecture, match="p takes 50 features, which 4 heads"):
        architecture.head_slice(0, 0)


def test_a_configuration_without_a_size_is_refused(tiny_model):
    llama = tiny_model("llama")
    bare = SimpleNamespace(hidden_size=HIDDEN, num_attention_heads=None, vocab_size=96)

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = llama.model.layers
            self.config = SimpleNamespace(get_text_config=lambda decoder: bare)

    with pytest.raises(UnsupportedArchitecture, match="num_attention_heads = None"):
        Architecture.of(Odd())
