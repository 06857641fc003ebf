import pytest
import torch
from tiny_training import SHAPES
from torch import Tensor
from torch._inductor.utils import fresh_cache
from torch.profiler import profile

from harness.models.attention import RotaryTable, attend, attend_by, attention_kernels, rotate
from harness.models.initialize import initialize
from harness.models.transformer import Transformer


def heads(widths: tuple[int, int, int], counts: tuple[int, int, int] = (4, 4, 4), seq: int = 40) -> list[Tensor]:
    """Queries, keys and values that require gradients."""
    draw = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, seq, count, width, generator=draw).requires_grad_()
        for count, width in zip(counts, widths, strict=True)
    ]


def by_hand(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention written out, a head of keys and values for each group of queries."""
    key, value = (x.repeat_interleave(query.shape[2] // x.shape[2], dim=2) for x in (key, value))
    scores = torch.einsum("bqhw,bkhw->bhqk", query, key) / query.shape[-1] ** 0.5
    seen = torch.ones(query.shape[1], query.shape[1], dtype=torch.bool).tril()
    return torch.einsum("bhqk,bkhw->bqhw", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)


CASES = {
    "each its own": ((16, 16, 16), (4, 4, 4)),
    "shared keys and values": ((16, 16, 16), (4, 2, 2)),
    "narrower values": ((24, 24, 16), (4, 4, 4)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kernel", ["auto", "math", "flash"])
def test_every_kernel_that_trains_on_cpu_gives_the_written_attention_and_its_gradients(kernel: str, case: str) -> None:
    inputs = heads(*CASES[case])
    wanted = by_hand(*inputs)
    along = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    with attention_kernels(kernel):
        given = attend_by(kernel)(*inputs)
        gradients = torch.autograd.grad(given, inputs, along)
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients, torch.autograd.grad(wanted, inputs, along), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_flex_gives_the_written_attention_at_every_length(case: str) -> None:
    flex = attend_by("flex")
    for seq in (40, 24):
        # without gradients, which it has on GPUs alone
        inputs = [x.detach() for x in heads(*CASES[case], seq=seq)]
        torch.testing.assert_close(flex(*inputs), by_hand(*inputs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_gives_the_same_logits_with_every_kernel(shape: str) -> None:
    tokens = torch.randint(0, 256, (2, 64), generator=torch.Generator().manual_seed(0))
    logits = {}
    for kernel in ("auto", "flash", "flex", "math"):
        model = Transformer(**SHAPES[shape], kernel=kernel)
        initialize(model, 4, 0, torch.device("cpu"))
        with torch.no_grad(), attention_kernels(kernel):
            logits[kernel] = model(tokens)
    for kernel in logits:
        torch.testing.assert_close(logits[kernel], logits["math"], atol=1e-5, rtol=0)


def test_a_kernel_that_is_not_there_is_not_replaced_by_another() -> None:
    with attention_kernels("cudnn"), pytest.raises(RuntimeError):
        attend(*heads((16, 16, 16)))


def test_a_compiled_kernel_is_the_chosen_one_also_where_another_was_compiled_before() -> None:
    inputs, taken = heads((16, 16, 16)), {}
    with fresh_cache():
        for kernel in ("flash", "math"):
            torch._dynamo.reset()
            with attention_kernels(kernel), profile() as record:
                torch.compile(attend, fullgraph=True)(*inputs).sum().backward()
            taken[kernel] = any("flash_attention" in event.key for event in record.key_averages())
    assert taken == {"flash": True, "math": False}


def test_given_positions_rotate_tokens_as_they_would_where_they_stand() -> None:
    table = RotaryTable(16, 10000.0)
    query = heads((16, 16, 16))[0]
    whole = rotate(query, *table(query, 40))
    some = torch.tensor([30, 31, 2, 3])
    picked = query[:, some]
    torch.testing.assert_close(rotate(picked, *RotaryTable(16, 10000.0)(picked, 4, some)), whole[:, some])


def test_rotated_products_depend_on_the_distance_of_positions_alone() -> None:
    query, key, _ = heads((16, 16, 16), seq=1)
    products = []
    for first in (0, 1000):
        at, before = (RotaryTable(16, 10000.0)(query, 1, torch.tensor([position])) for position in (first + 7, first))
        products.append((rotate(query, *at) * rotate(key, *before)).sum(-1))
    torch.testing.assert_close(products[0], products[1], atol=1e-3, rtol=0)
    assert (products[0] - (query * key).sum(-1)).abs().max() > 0.1
