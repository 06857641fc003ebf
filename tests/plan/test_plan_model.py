from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plan_configs import group, model, rows
from torch.utils.flop_counter import FlopCounterMode

from harness.config import Model
from harness.models.attention import attention_kernels
from harness.models.initialize import initialize
from harness.models.transformer import Transformer, cross_entropy
from harness.plan.model import (
    block_parameters,
    flops_per_token,
    flops_per_token_causal,
    parameters,
    parameters_without_embedding,
)

PUBLISHED = {
    "1b": 1_498_482_688,
    "3b": 3_212_749_824,
    "8b": 8_030_261_248,
    "13b": 13_015_864_320,
    "70b": 70_553_706_496,
    "405b": 405_853_388_800,
    "moe_8x7b": 46_702_792_704,
    "mla_moe_16b": 15_706_484_224,
}

shapes = st.builds(
    Model,
    name=st.just("any"),
    dim=st.integers(1, 4096),
    layers=st.integers(1, 64),
    heads=st.integers(1, 64),
    kv_heads=st.integers(1, 64),
    head_dim=st.integers(1, 128).map(lambda half: 2 * half),
    ffn_dim=st.integers(1, 8192),
    vocab_size=st.integers(2, 200_000),
    tied_embeddings=st.booleans(),
    experts=st.integers(0, 64),
    experts_per_token=st.integers(1, 8),
    expert_ffn_dim=st.integers(1, 2048),
    shared_experts=st.integers(0, 2),
    dense_layers=st.integers(0, 2),
)


def built(shape: Model, device: str) -> Transformer:
    sizes = asdict(shape)
    sizes.pop("name")
    with torch.device(device):
        return Transformer(**sizes)


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_a_published_shape_has_the_published_number_of_parameters(name: str, count: int) -> None:
    assert parameters(model(name)) == count


@pytest.mark.parametrize("name", group("model"))
def test_parameters_are_those_of_the_module_block_by_block(name: str) -> None:
    shape, module = model(name), built(model(name), "meta")
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters(shape)
    blocks = [sum(parameter.numel() for parameter in block.parameters()) for block in module.blocks.values()]
    assert blocks == [block_parameters(shape, index) for index in range(shape.layers)]


def test_a_token_of_mixtral_meets_two_experts_of_eight() -> None:
    unmet = 32 * 6 * 3 * 4096 * 14336
    assert parameters(model("moe_8x7b"), active=True) == 46_702_792_704 - unmet
    assert parameters(model("8b"), active=True) == parameters(model("8b"))


@pytest.mark.parametrize("name", group("model"))
def test_a_model_is_called_what_its_file_is_called(name: str) -> None:
    assert next(iter(group("model")[name].items())) == ("name", name)


def described(first: str, columns: int) -> dict[str, list[str]]:
    """The cells of a table of the page of models by the shape's name, numbers without their commas."""
    table = rows("models.md", first)
    return {row[0]: [cell.replace(",", "") for cell in row[1 : columns + 1]] for row in table}


def test_the_page_of_models_has_every_shape_with_its_exact_counts() -> None:
    shapes = {}
    for name in group("model"):
        m = model(name)
        sizes = (m.dim, m.layers, m.heads, m.kv_heads, m.head_dim, m.ffn_dim, m.vocab_size)
        tied = "yes" if m.tied_embeddings else "no"
        counts = (parameters(m), parameters_without_embedding(m, active=True))
        shapes[name] = [*map(str, sizes), tied, *map(str, counts)]
    assert described("Model", 10) == shapes


def test_the_page_of_models_has_the_widths_and_experts_of_every_shape_that_has_them() -> None:
    shapes = {}
    for name in group("model"):
        m = model(name)
        latent = (m.kv_lora_rank, m.rope_head_dim, m.v_head_dim)
        routed = (m.experts, m.experts_per_token, m.expert_ffn_dim, m.shared_experts, m.dense_layers)
        if any((*latent, *routed)):
            shapes[name] = [str(number) for number in (*latent, *routed, parameters(m, active=True))]
    assert described("Shape", 9) == shapes


@given(shapes)
def test_the_flops_formula_leaves_out_the_input_embedding_unless_it_is_also_the_output(shape: Model) -> None:
    embedding = 0 if shape.tied_embeddings else shape.vocab_size * shape.dim
    for active in (False, True):
        assert parameters_without_embedding(shape, active) == parameters(shape, active) - embedding


@given(shapes, st.integers(1, 10**6))
def test_flops_are_six_a_parameter_and_attention_over_the_whole_sequence(shape: Model, seq_len: int) -> None:
    attention = 6 * shape.layers * shape.heads * 2 * shape.head_dim * seq_len
    weights = 6 * parameters_without_embedding(shape, active=True)
    assert flops_per_token(shape, seq_len) == pytest.approx(weights + attention)
    assert flops_per_token_causal(shape, seq_len) == pytest.approx(weights + attention / 2)


def test_flops_of_llama_8b_at_8192_tokens_by_hand() -> None:
    assert flops_per_token(model("8b"), 8192) == 6 * 7_504_924_672 + 6 * 32 * 32 * (128 + 128) * 8192


DENSE = Model("dense", dim=64, layers=3, heads=4, kv_heads=2, head_dim=16, ffn_dim=160, vocab_size=96)
EXPERTS = Model(
    **{**asdict(DENSE), "experts": 4, "experts_per_token": 2, "expert_ffn_dim": 32, "shared_experts": 1},
)
LATENT = Model(
    **{**asdict(EXPERTS), "kv_heads": 4, "kv_lora_rank": 24, "rope_head_dim": 8, "v_head_dim": 12, "dense_layers": 1},
)


@pytest.mark.parametrize("shape", [DENSE, EXPERTS, LATENT], ids=("dense", "experts", "latent"))
def test_flops_are_the_matrix_products_that_torch_counts_in_a_step_and_six_a_norm_weight(shape: Model) -> None:
    batch, seq = 2, 48
    module = built(shape, "cpu")
    initialize(module, shape.layers, 0, torch.device("cpu"))
    tokens = torch.randint(0, shape.vocab_size, (batch, seq), generator=torch.Generator().manual_seed(0))
    with attention_kernels("math"), FlopCounterMode(display=False) as counter:
        cross_entropy(module(tokens), tokens).backward()
    norms = sum(parameter.numel() for parameter in module.parameters() if parameter.dim() == 1)
    assert counter.get_total_flops() == batch * seq * (flops_per_token(shape, seq) - 6 * norms)
