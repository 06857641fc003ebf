"""Grouped-query attention with rotary positions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.compiler import config as compiler
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from harness.models.layers import Linear

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values, heads [batch, seq, heads, width], to what each query sees of the values."""

BACKENDS = {
    "auto": [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        # what also takes fp32
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ],
    "cudnn": [SDPBackend.CUDNN_ATTENTION],
    "flash": [SDPBackend.FLASH_ATTENTION],
    "math": [SDPBackend.MATH],
}
"""What scaled_dot_product_attention may take, first choice first."""


@contextmanager
def attention_kernels(kernel: str) -> Iterator[None]:
    """Where models built with `kernel` run: it decides between the backends of scaled_dot_product_attention."""
    # torch looks up what it has compiled by the operations alone, and would find those of another kernel
    apart = compiler.patch(cache_key_tag=f"attention={kernel}")  # type: ignore[attr-defined]
    with apart, sdpa_kernel(BACKENDS.get(kernel, BACKENDS["auto"]), set_priority=True):
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
    width = value.shape[-1]
    if width < query.shape[-1] and takes_flash(query.device.type, query.dtype, query.shape[-1]):
        # zeros beside the values come out as zeros
        value = F.pad(value, (0, query.shape[-1] - width))
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), is_causal=True, enable_gqa=shared
    )
    return mixed.transpose(1, 2)[..., :width]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def takes_flash(device: str, dtype: torch.dtype, width: int) -> bool:
    """Whether scaled_dot_product_attention would take flash for heads all of one width; flash takes no others."""
    head = torch.empty(1, 1, 128, width, dtype=dtype, device=device)
    return torch._fused_sdp_choice(head, head, head, is_causal=True) == SDPBackend.FLASH_ATTENTION.value


class FlexAttend:
    """The same by torch's flex_attention, its causal mask kept per length and device."""

    def __init__(self) -> None:
        self.masks: dict[tuple[int, torch.device], BlockMask] = {}
        self.compiled = torch.compile(flex_attention)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        compute = self.compiled if query.is_cuda else flex_attention
        mixed = compute(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            block_mask=self.mask(query.shape[1], query.device),
            enable_gqa=True,
        )
        return mixed.transpose(1, 2)

    def mask(self, seq: int, device: torch.device) -> BlockMask:
        """Which blocks of keys a block of queries sees."""
        if (seq, device) not in self.masks:
            self.masks[seq, device] = create_block_mask(causal, None, None, seq, seq, device=device)
        return self.masks[seq, device]


def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Whether a query sees a key, by their positions."""
    return query >= key


def attend_by(kernel: str) -> Attend:
    """The attention of a model with this choice of kernel."""
    return FlexAttend() if kernel == "flex" else attend


class Attention(nn.Module):
    """Causal self-attention, `heads` queries sharing `kv_heads` keys and values: [batch, seq, dim] to the same."""

    def __init__(self, *, dim: int, heads: int, kv_heads: int, head_dim: int, attend: Attend) -> None:
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
