"""The fused kernels under scaled_dot_product_attention, one part of an attention at a time.

A kernel gives for each query, beside what it saw, the log of the sum of its scores' exponentials: by it parts over
different keys are merged. Backward of a part needs only the merged output and log-sums (FlashAttention,
arXiv:2205.14135, algorithm 4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

aten = torch.ops.aten


class Part(NamedTuple):
    """Queries over some keys and values, heads [batch, heads, seq, width]; `causal` where their positions are equal."""

    query: Tensor
    key: Tensor
    value: Tensor
    causal: bool
    scale: float


Forward = Callable[[Part], tuple[Tensor, Tensor, Sequence[Tensor]]]
"""A part to its output, its log-sums and what else backward asks for."""

Backward = Callable[[Part, Tensor, Tensor, Tensor, Sequence[Tensor]], Sequence[Tensor]]
"""A part, the gradient of the output, output, log-sums and the rest to the gradients of queries, keys and values."""


@dataclass(frozen=True)
class Kernel:
    """What autograd calls for one backend.

    shares: takes keys and values of fewer heads than queries. widths: takes values of another width.
    """

    forward: Forward
    backward: Backward
    shares: bool = False
    widths: bool = False

    def see(self, part: Part) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
        """What queries see of values [batch, heads, seq, width], the log-sums [batch, heads, seq] and the rest."""
        output, sums, rest = self.forward(self.fit(part))
        return output[..., : part.value.shape[-1]], sums, rest

    def gradients(
        self, part: Part, gradient: Tensor, output: Tensor, sums: Tensor, rest: Sequence[Tensor]
    ) -> list[Tensor]:
        """Gradients of queries, keys and values; output and log-sums may be those of more keys than the part's."""
        fitted = self.fit(part)
        missing = fitted.value.shape[-1] - part.value.shape[-1]
        gradient, output = (F.pad(x, (0, missing)) for x in (gradient, output))
        # some backends take the log-sums' layout for granted
        found = self.backward(fitted, gradient, output, sums.contiguous(), rest)
        return [
            x.unflatten(1, (given.shape[1], -1)).sum(2)[..., : given.shape[-1]]
            if x.shape[1] != given.shape[1]
            else x[..., : given.shape[-1]]
            for x, given in zip(found, part[:3], strict=True)
        ]

    def fit(self, part: Part) -> Part:
        """The part as the backend takes it: keys and values for every head, and one width, zeros beside the rest."""
        query, key, value, causal, scale = part
        if not self.shares:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        if not self.widths:
            width = max(query.shape[-1], value.shape[-1]) + 7 & ~7
            query, key, value = (F.pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
        return Part(query, key, value, causal, scale)


def cpu(part: Part) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    query, key, value, causal, scale = part
    output, sums = aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)
    return output, sums, ()


def cpu_backward(
    part: Part, gradient: Tensor, output: Tensor, sums: Tensor, rest: Sequence[Tensor]
) -> Sequence[Tensor]:
    query, key, value, causal, scale = part
    return aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, query, key, value, output, sums, 0.0, causal, scale=scale
    )


def flash(part: Part) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    query, key, value, causal, scale = part
    found = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scale)
    return found[0], found[1], found[6:8]


def flash_backward(
    part: Part, gradient: Tensor, output: Tensor, sums: Tensor, rest: Sequence[Tensor]
) -> Sequence[Tensor]:
    query, key, value, causal, scale = part
    lengths = query.shape[2], key.shape[2]
    return aten._scaled_dot_product_flash_attention_backward(
        gradient, query, key, value, output, sums, None, None, *lengths, 0.0, causal, *rest, scale=scale
    )


def cudnn(part: Part) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    query, key, value, causal, scale = part
    found = aten._scaled_dot_product_cudnn_attention(query, key, value, None, True, 0.0, causal, scale=scale)
    return found[0], found[1].flatten(2), found[6:8]


def cudnn_backward(
    part: Part, gradient: Tensor, output: Tensor, sums: Tensor, rest: Sequence[Tensor]
) -> Sequence[Tensor]:
    query, key, value, causal, scale = part
    lengths = query.shape[2], key.shape[2]
    return aten._scaled_dot_product_cudnn_attention_backward(
        gradient,
        query,
        key,
        value,
        output,
        sums[..., None],
        *rest,
        None,
        None,
        None,
        *lengths,
        0.0,
        causal,
        scale=scale,
    )


def efficient(part: Part) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    query, key, value, causal, scale = part
    found = aten._scaled_dot_product_efficient_attention(query, key, value, None, True, 0.0, causal, scale=scale)
    return found[0], found[1][..., : query.shape[2]], found[2:4]


def efficient_backward(
    part: Part, gradient: Tensor, output: Tensor, sums: Tensor, rest: Sequence[Tensor]
) -> Sequence[Tensor]:
    query, key, value, causal, scale = part
    # this kernel keeps rows of sums that are multiples of 32
    sums = F.pad(sums, (0, -sums.shape[2] % 32), value=float("inf"))
    wanted = [True, True, True, False]
    return aten._scaled_dot_product_efficient_attention_backward(
        gradient, query, key, value, None, output, sums, *rest, 0.0, wanted, causal, scale=scale
    )[:3]


KERNELS = {
    ("cpu", SDPBackend.FLASH_ATTENTION.value): Kernel(cpu, cpu_backward),
    ("cuda", SDPBackend.FLASH_ATTENTION.value): Kernel(flash, flash_backward, shares=True),
    ("cuda", SDPBackend.CUDNN_ATTENTION.value): Kernel(cudnn, cudnn_backward, shares=True, widths=True),
    ("cuda", SDPBackend.EFFICIENT_ATTENTION.value): Kernel(efficient, efficient_backward, widths=True),
}
"""By device and number of the backend, so that a compiler takes them for constants."""


def choose(value: Tensor, width: int) -> Kernel:
    """The kernel that scaled_dot_product_attention would take for these values and queries of this width."""
    device = value.device.type
    return KERNELS[device, backend(device, value.dtype, width, value.shape[-1])]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def backend(device: str, dtype: torch.dtype, width: int, value_width: int) -> int:
    """The number of the backend: cuDNN's if it takes the values as they are, else one for values that may be padded."""
    query, value = (torch.empty(1, 1, 128, size, dtype=dtype, device=device) for size in (width, value_width))
    if device == "cuda" and can_use_cudnn_attention(SDPAParams(query, query, value, None, 0.0, True, False)):
        return SDPBackend.CUDNN_ATTENTION.value
    found = torch._fused_sdp_choice(query, query, query, is_causal=True)
    if (device, found) not in KERNELS:
        raise ValueError("attention=math: cannot be shared out with parallel.context=all_gather; take ulysses")
    return found
