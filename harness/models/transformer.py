"""The decoder-only transformer: RMSNorm, rotary positions, grouped-query or latent attention, SwiGLU or experts."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.attention import Attention, FlexAttend, RotaryTable, attend_by
from harness.models.experts import MixtureOfExperts, Router
from harness.models.latent import LatentAttention
from harness.models.layers import Embedding, FeedForward, Linear, RMSNorm


class Block(nn.Module):
    """Attention and feed-forward, each normed first and added to the stream [batch, seq, dim]."""

    def __init__(self, *, dim: int, norm_eps: float, attention: nn.Module, feed_forward: nn.Module) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(dim, eps=norm_eps)
        self.attention = attention
        self.ffn_norm = RMSNorm(dim, eps=norm_eps)
        self.feed_forward = feed_forward

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
        kv_lora_rank: int = 0,
        rope_head_dim: int = 0,
        v_head_dim: int = 0,
        experts: int = 0,
        experts_per_token: int = 0,
        expert_ffn_dim: int = 0,
        shared_experts: int = 0,
        dense_layers: int = 0,
        normalise_routes: bool = True,
        balance: str = "none",
        balance_rate: float = 0.001,
        compute: torch.dtype = torch.float32,
        kernel: str = "auto",
    ) -> None:
        super().__init__()
        self.dim = dim
        self.rotary = RotaryTable(rope_head_dim if kv_lora_rank else head_dim, rope_theta)
        self.embedding: Embedding | None = Embedding(vocab_size, dim, compute)
        self.attend = attend_by(kernel)

        def attention() -> nn.Module:
            if kv_lora_rank:
                return LatentAttention(
                    dim=dim,
                    heads=heads,
                    head_dim=head_dim,
                    rope_head_dim=rope_head_dim,
                    v_head_dim=v_head_dim,
                    kv_lora_rank=kv_lora_rank,
                    norm_eps=norm_eps,
                    attend=self.attend,
                )
            return Attention(dim=dim, heads=heads, kv_heads=kv_heads, head_dim=head_dim, attend=self.attend)

        def feed_forward(index: int) -> nn.Module:
            if experts and index >= dense_layers:
                return MixtureOfExperts(
                    dim=dim,
                    experts=experts,
                    experts_per_token=experts_per_token,
                    expert_ffn_dim=expert_ffn_dim,
                    shared_experts=shared_experts,
                    normalise_routes=normalise_routes,
                    balance=balance,
                    balance_rate=balance_rate,
                )
            return FeedForward(dim=dim, hidden=ffn_dim)

        self.blocks = nn.ModuleDict(
            {
                str(index): Block(dim=dim, norm_eps=norm_eps, attention=attention(), feed_forward=feed_forward(index))
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
        seq = x.shape[1] * self.sequence_shards
        cos, sin = self.rotary(x, seq, self.positions)
        if isinstance(self.attend, FlexAttend) and self.positions is None:
            # made here, for a block that is checkpointed and compiled cannot
            self.attend.mask(seq, x.device)
        for block in self.blocks.values():
            x = block(x, cos, sin)
        if self.norm is None or self.output is None:
            return x
        logits: Tensor = self.output(self.norm(x))
        return logits

    def balance(self) -> None:
        """After a step, move the routers' biases towards an even load; nothing where there are none."""
        for module in self.modules():
            if isinstance(module, Router):
                module.rebalance(module.load)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats of target ids [batch, seq], taken in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(0, 1))
