"""Grouped-query attention with rotary positions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.models.layers import Linear


@contextmanager
def preferred_attention() -> Iterator[None]:
    """Fastest attention first: cuDNN's, then flash, then what also takes fp32."""
    order = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    with sdpa_kernel(order, set_priority=True):
        yield


class RotaryTable:
    """Cosines and sines of the rotary embedding, each [seq, head_dim / 2], kept per length, device and type.

    RoFormer (Su et al. 2021), section 3.4.2, with the halves of a head rotated against each other: real
    numbers only, so that the compiler fuses the rotation.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        self.head_dim, self.theta = head_dim, theta
        self.kept: dict[tuple[int, torch.device, torch.dtype, bool], tuple[Tensor, Tensor]] = {}

    def __call__(self, like: Tensor, seq: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The tables in the type and on the device of `like`, for positions 0 to seq or those given [seq]."""
        key = (seq, like.device, like.dtype, positions is not None)
        if key not in self.kept:
            exponents = torch.arange(0, self.head_dim, 2, device=like.device, dtype=torch.float32) / self.head_dim
            if positions is None:
                positions = torch.arange(seq, device=like.device)
            angles = torch.outer(positions.to(like.device, torch.float32), 1.0 / self.theta**exponents)
            self.kept[key] = (angles.cos().to(like.dtype), angles.sin().to(like.dtype))
        return self.kept[key]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads [batch, seq, heads, head_dim] by their positions."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[None, :, None, :], sin[None, :, None, :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention over heads [batch, seq, heads, width], keys and values with as many heads or fewer."""
    shared = key.shape[2] != query.shape[2]
    if shared and query.dtype == torch.float32:
        # no fused kernel shares fp32 keys and values, and the one that does not fuse stores all scores
        key, value = (x.repeat_interleave(query.shape[2] // x.shape[2], dim=2) for x in (key, value))
        shared = False
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=True, enable_gqa=shared
    )
    return mixed.transpose(1, 2)


class Attention(nn.Module):
    """Causal self-attention, `heads` queries sharing `kv_heads` keys and values: [batch, seq, dim] to the same."""

    def __init__(self, *, dim: int, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.attend = attend
        self.wq = Linear(dim, heads * head_dim)
        self.wk = Linear(dim, kv_heads * head_dim)
        self.wv = Linear(dim, kv_heads * head_dim)
        self.wo = Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, seq, _ = x.shape
        # heads are counted by what the projections give: with tensor parallelism a rank has some of them
        query, key, value = (project(x).view(batch, seq, -1, self.head_dim) for project in (self.wq, self.wk, self.wv))
        mixed = self.attend(rotate(query, cos, sin), rotate(key, cos, sin), value)
        return self.wo(mixed.reshape(batch, seq, -1))
