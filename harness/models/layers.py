"""Layers whose stored weights are cast to the type of what flows through them.

With fp32 parameters and bf16 activations every strategy then computes in the same types, whether it hands
the layer its fp32 parameter (ddp) or a gathered bf16 copy (fsdp).
"""

from torch import Tensor, nn
from torch.nn import functional as F


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
