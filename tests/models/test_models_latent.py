import pytest
import torch
from torch import Tensor

from harness.models.attention import RotaryTable, attend
from harness.models.latent import LatentAttention

DIM, HEADS, PLAIN, ROTATED, VALUES, RANK, SEQ = 32, 4, 8, 6, 10, 12, 20


@pytest.fixture
def attention() -> LatentAttention:
    torch.manual_seed(0)
    return LatentAttention(
        dim=DIM,
        heads=HEADS,
        head_dim=PLAIN,
        rope_head_dim=ROTATED,
        v_head_dim=VALUES,
        kv_lora_rank=RANK,
        norm_eps=1e-5,
        attend=attend,
    )


def turned(x: Tensor) -> Tensor:
    """Heads [batch, seq, heads, width] rotated as complex numbers of their two halves."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[1]), 10000.0 ** (-torch.arange(half) / half))
    numbers = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones(()), angles)[:, None, :]
    return torch.cat((numbers.real, numbers.imag), dim=-1)


def by_hand(attention: LatentAttention, x: Tensor) -> Tensor:
    """DeepSeek-V2's equations, head by head of the weights, over plain matrices."""
    query = torch.einsum("bsd,hwd->bshw", x, attention.wq.weight.view(HEADS, PLAIN + ROTATED, DIM))
    compressed = x @ attention.wkv_a.weight.T
    latent, shared = compressed[..., :RANK], compressed[..., RANK:]
    latent = latent / (latent.square().mean(-1, keepdim=True) + 1e-5).sqrt() * attention.kv_norm.weight
    expanded = torch.einsum("bsr,hwr->bshw", latent, attention.wkv_b.weight.view(HEADS, PLAIN + VALUES, RANK))
    scores = torch.einsum("bqhw,bkhw->bhqk", query[..., :PLAIN], expanded[..., :PLAIN])
    shared = turned(shared[:, :, None, :])[:, :, 0]
    scores = scores + torch.einsum("bqhw,bkw->bhqk", turned(query[..., PLAIN:]), shared)
    seen = torch.ones(SEQ, SEQ, dtype=torch.bool).tril()
    weights = (scores / (PLAIN + ROTATED) ** 0.5).masked_fill(~seen, -torch.inf).softmax(-1)
    mixed = torch.einsum("bhqk,bkhw->bqhw", weights, expanded[..., PLAIN:])
    return mixed.flatten(2) @ attention.wo.weight.T


def test_latent_attention_is_deepseeks_equations_forward_and_backward(attention: LatentAttention) -> None:
    with torch.no_grad():
        attention.kv_norm.weight.uniform_(0.5, 1.5)
    x = torch.randn(2, SEQ, DIM, requires_grad=True)
    given = attention(x, *RotaryTable(ROTATED, 10000.0)(x, SEQ))
    wanted = by_hand(attention, x)
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-5)
    along, trained = torch.randn_like(given), [x, *attention.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(given, trained, along), torch.autograd.grad(wanted, trained, along), atol=1e-4, rtol=1e-4
    )


def test_a_rank_that_has_some_of_the_heads_gives_their_part_of_the_sum(attention: LatentAttention) -> None:
    x = torch.randn(2, SEQ, DIM)
    tables = RotaryTable(ROTATED, 10000.0)(x, SEQ)
    whole = attention(x, *tables)
    names = {"wq": 0, "wkv_b": 0, "wo": 1}
    weights = {name: getattr(attention, name).weight.detach().chunk(2, dim) for name, dim in names.items()}
    parts = []
    for rank in range(2):
        for name in names:
            getattr(attention, name).weight = torch.nn.Parameter(weights[name][rank])
        parts.append(attention(x, *tables))
    torch.testing.assert_close(parts[0] + parts[1], whole, atol=1e-5, rtol=1e-5)
