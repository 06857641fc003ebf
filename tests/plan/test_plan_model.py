import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_configs import group, model, rows

from harness.config import Model
from harness.plan.model import flops_per_token, flops_per_token_causal, parameters, parameters_without_embedding

PUBLISHED = {
    "1b": 1_498_482_688,
    "3b": 3_212_749_824,
    "8b": 8_030_261_248,
    "13b": 13_015_864_320,
    "70b": 70_553_706_496,
    "405b": 405_853_388_800,
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
)


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_a_published_shape_has_the_published_number_of_parameters(name: str, count: int) -> None:
    assert parameters(model(name)) == count


@pytest.mark.parametrize("name", group("model"))
def test_a_model_is_called_what_its_file_is_called(name: str) -> None:
    assert next(iter(group("model")[name].items())) == ("name", name)


def test_the_page_of_models_has_every_shape_with_its_exact_counts() -> None:
    described = {row[0]: [cell.replace(",", "") for cell in row[1:11]] for row in rows("models.md", "Model")}
    shapes = {}
    for name in group("model"):
        m = model(name)
        sizes = (m.dim, m.layers, m.heads, m.kv_heads, m.head_dim, m.ffn_dim, m.vocab_size)
        tied = "yes" if m.tied_embeddings else "no"
        shapes[name] = [*map(str, sizes), tied, str(parameters(m)), str(parameters_without_embedding(m))]
    assert described == shapes


@given(shapes)
def test_the_flops_formula_leaves_out_the_input_embedding_unless_it_is_also_the_output(shape: Model) -> None:
    embedding = 0 if shape.tied_embeddings else shape.vocab_size * shape.dim
    assert parameters_without_embedding(shape) == parameters(shape) - embedding


@given(shapes, st.integers(1, 10**6))
def test_flops_are_six_a_parameter_and_attention_over_the_whole_sequence(shape: Model, seq_len: int) -> None:
    attention = 6 * shape.layers * shape.heads * 2 * shape.head_dim * seq_len
    weights = 6 * parameters_without_embedding(shape)
    assert flops_per_token(shape, seq_len) == pytest.approx(weights + attention)
    assert flops_per_token_causal(shape, seq_len) == pytest.approx(weights + attention / 2)


def test_flops_of_llama_8b_at_8192_tokens_by_hand() -> None:
    assert flops_per_token(model("8b"), 8192) == 6 * 7_504_924_672 + 6 * 32 * 32 * (128 + 128) * 8192
