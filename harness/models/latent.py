"""Multi-head latent attention: keys and values are made of one narrow latent per token."""

import torch
from torch import Tensor, nn

from harness.models.attention import Attend, rotate
from harness.models.layers import Linear, RMSNorm


class LatentAttention(nn.Module):
    """Causal self-attention of DeepSeek-V2 (arXiv:2405.04434, section 2.1), queries uncompressed: [batch, seq, dim].

    A head's queries and keys have a part of `head_dim` without positions and one of `rope_head_dim` that is rotated;
    the rotated key is the same for all heads. Values are `v_head_dim` wide.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        head_dim: int,
        rope_head_dim: int,
        v_head_dim: int,
        kv_lora_rank: int,
        norm_eps: float,
        attend: Attend,
    ) -> None:
        super().__init__()
        self.head_dim, self.rope_head_dim, self.v_head_dim = head_dim, rope_head_dim, v_head_dim
        self.attend = attend
        self.wq = Linear(dim, heads * (head_dim + rope_head_dim))
        self.wkv_a = Linear(dim, kv_lora_rank + rope_head_dim)
        self.kv_norm = RMSNorm(kv_lora_rank, eps=norm_eps)
        self.wkv_b = Linear(kv_lora_rank, heads * (head_dim + v_head_dim))
        self.wo = Linear(heads * v_head_dim, dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, seq, _ = x.shape
        # heads are counted by what the projections give: with tensor parallelism a rank has some of them
        query = self.wq(x).view(batch, seq, -1, self.head_dim + self.rope_head_dim)
        plain, turned = query.split([self.head_dim, self.rope_head_dim], dim=-1)
        query = torch.cat((plain, rotate(turned, cos, sin)), dim=-1)

        compressed = self.wkv_a(x)
        latent, turned = compressed.split([compressed.shape[-1] - self.rope_head_dim, self.rope_head_dim], dim=-1)
        expanded = self.wkv_b(self.kv_norm(latent)).view(batch, seq, -1, self.head_dim + self.v_head_dim)
        plain, value = expanded.split([self.head_dim, self.v_head_dim], dim=-1)
        turned = rotate(turned[:, :, None, :], cos, sin).expand(-1, -1, plain.shape[2], -1)
        key = torch.cat((plain, turned), dim=-1)

        return self.wo(self.attend(query, key, value).reshape(batch, seq, -1))
