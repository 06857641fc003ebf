"""Layers whose stored weights are cast to the type of what flows through them.

With fp32 parameters and bf16 activations every strategy then computes in the same types, whether it hands
the layer its fp32 parameter (ddp) or a gathered bf16 copy (fsdp).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Embedding(nn.Embedding):
    """A table of vectors: ids [...] to [..., features] in `compute` type."""

    def __init__(self, ids: int, features: int, compute: torch.dtype) -> None:
        super().__init__(ids, features)
        self.compute = compute

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight.to(self.compute))


class Linear(nn.Linear):
    """A projection without bias: [..., in] to [..., out]."""

    def __init__(self, features_in: int, features_out: int) -> None:
        super().__init__(features_in, features_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last dimension (Zhang and Sennrich 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): [..., dim] to the same."""

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = Linear(dim, hidden)
        self.w2 = Linear(hidden, dim)
        self.w3 = Linear(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out
