"""The decoder-only transformer of Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.attention import Attention, RotaryTable
from harness.models.layers import Embedding, Linear, RMSNorm


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): [batch, seq, dim] to the same."""

    def __init__(self, *, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1 = Linear(dim, hidden)
        self.w2 = Linear(hidden, dim)
        self.w3 = Linear(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each normed first and added to the stream [batch, seq, dim]."""

    def __init__(self, *, dim: int, heads: int, kv_heads: int, head_dim: int, ffn_dim: int, norm_eps: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(dim, eps=norm_eps)
        self.attention = Attention(dim=dim, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
        self.ffn_norm = RMSNorm(dim, eps=norm_eps)
        self.feed_forward = FeedForward(dim=dim, hidden=ffn_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    """Token ids [batch, seq] to logits [batch, seq, vocabulary], activations in `compute` type.

    A pipeline's stage is a transformer that lacks what other stages have: it keeps some of the blocks, by their
    numbers in the whole model, has no `embedding` unless it is the first, and neither `norm` nor `output` unless it
    is the last; then it takes and gives the stream [batch, seq, dim].
    """

    positions: Tensor | None = None
    """Positions [seq] of this rank's tokens in their sequences, where ranks share sequences out; else 0, 1, 2 …"""

    sequence_shards: int = 1
    """Ranks over which the stream between blocks is split along the sequence."""

    def __init__(
        self,
        *,
        dim: int,
        layers: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        ffn_dim: int,
        vocab_size: int,
        rope_theta: float,
        norm_eps: float,
        tied_embeddings: bool,
        compute: torch.dtype = torch.float32,
        kernel: str = "auto",
        **later: Any,
    ) -> None:
        super().__init__()
        self.rotary = RotaryTable(head_dim, rope_theta)
        self.embedding: Embedding | None = Embedding(vocab_size, dim, compute)
        self.blocks = nn.ModuleDict(
            {
                str(index): Block(
                    dim=dim, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn_dim=ffn_dim, norm_eps=norm_eps
                )
                for index in range(layers)
            }
        )
        self.norm: RMSNorm | None = RMSNorm(dim, eps=norm_eps)
        self.output: Linear | None = Linear(dim, vocab_size)
        self.tied = tied_embeddings
        self.tie()

    def tie(self) -> None:
        """Let the output projection be the embedding, where the shape says so."""
        if self.tied:
            assert self.embedding is not None and self.output is not None, "a tied model is one stage"
            self.output.weight = self.embedding.weight

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """As nn.Module's, which would leave two tensors where there was one."""
        super().to_empty(device=device, recurse=recurse)
        self.tie()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
        cos, sin = self.rotary(x, x.shape[1] * self.sequence_shards, self.positions)
        for block in self.blocks.values():
            x = block(x, cos, sin)
        if self.norm is None or self.output is None:
            return x
        logits: Tensor = self.output(self.norm(x))
        return logits

    def balance(self) -> None:
        """After a step, move the routers' biases towards an even load; nothing where there are none."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats of target ids [batch, seq], taken in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(0, 1))
