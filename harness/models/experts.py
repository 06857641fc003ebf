"""Mixture of experts: each token's feed-forward is done by a few of many, chosen by a router; no token is dropped."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.models.layers import FeedForward, Linear


class Exchange(Protocol):
    """Where experts live on several ranks: how token rows get to theirs and back."""

    def dispatch(self, rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Send `rows` [n, dim], sorted by expert, `counts` [experts] of them to each.

        Returns the rows for this rank's experts, sorted by expert, their counts [local experts], and what brings
        rows back in the order in which these were sent.
        """


class Gate(Linear):
    """Scores in fp32, of a weight rounded to the type of what flows through, as elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weight.to(x.dtype).float())


class AddGradient(torch.autograd.Function):
    """`x` as it is; backward also differentiates `loss`, a scalar that the reported loss leaves out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones(())


class Reorder(torch.autograd.Function):
    """Rows [n, width], each `copies` times, in the `order` [n × copies]; `inverse` undoes it.

    Both directions only read by index: the sum over copies needs no atomic additions, so that backward is the same
    every time.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.copies = copies
        return rows[order // copies]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradient[inverse].unflatten(0, (-1, ctx.copies)).sum(1), None, None, None


def itself(counts: Tensor) -> Tensor:
    """Counts of sequences that no other rank has parts of."""
    return counts


class Router(nn.Module):
    """Which experts take a token, and with what weights: softmax scores, of which the highest count.

    An even load is sought by `balance`: `aux` adds the gradient of an auxiliary loss to that of the reported one,
    `bias` chooses by scores plus a bias that `rebalance` moves after each step, or neither (`none`).
    """

    aux_share: float = 1.0
    """Weight of this forward pass's auxiliary loss in its step: one by the number of microbatches."""

    sequence_ranks: int = 1
    """Ranks that share sequences out among them."""

    over_sequence: Callable[[Tensor], Tensor] = staticmethod(itself)
    """Sums counts over those ranks."""

    bias: Tensor
    load: Tensor

    def __init__(
        self, *, dim: int, experts: int, experts_per_token: int, normalise: bool, balance: str, balance_rate: float
    ) -> None:
        super().__init__()
        self.experts, self.experts_per_token, self.normalise = experts, experts_per_token, normalise
        self.balance, self.balance_rate = balance, balance_rate
        self.gate = Gate(dim, experts)
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [batch, seq, dim] to weights, in their type, and numbers of experts, each [batch, seq, per token]."""
        scores = self.gate(x).softmax(dim=-1)
        chosen = (scores.detach() + self.bias).topk(self.experts_per_token, dim=-1).indices
        weights = scores.gather(-1, chosen)
        if self.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        # a pass that trains nothing counts for nothing
        if self.balance == "bias" and torch.is_grad_enabled():
            self.load.add_(self.counts(chosen).sum(0))
        if self.balance == "aux":
            weights = AddGradient.apply(weights, self.imbalance(scores, chosen))
        return weights.to(x.dtype), chosen

    def counts(self, chosen: Tensor) -> Tensor:
        """How many tokens of each sequence each expert takes: [batch, experts]."""
        flat = chosen.flatten(1)
        return flat.new_zeros(flat.shape[0], self.experts).scatter_add_(1, flat, torch.ones_like(flat))

    def imbalance(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """The sequence-wise auxiliary loss (DeepSeek-V3, arXiv:2412.19437, equations 17 to 20): `balance_rate` if even.

        The mean over sequences of the sum over experts of (tokens taken ÷ an even share) × mean score. Of a shared
        sequence it is the part with this rank's scores; the mean over ranks is the loss.
        """
        tokens = scores.shape[1] * self.sequence_ranks
        taken = self.over_sequence(self.counts(chosen)) * (self.experts / (self.experts_per_token * tokens))
        return self.balance_rate * self.aux_share * (taken * scores.mean(dim=1)).sum(dim=-1).mean()

    @torch.no_grad()
    def rebalance(self, load: Tensor) -> None:
        """Favour experts that took fewer tokens than the mean (arXiv:2408.15664, algorithm 1), and count anew.

        `load` [experts]: how many each took in the step, of all ranks, or a multiple: recomputed passes count again.
        """
        if self.balance == "bias":
            load = load.float()
            self.bias += self.balance_rate * (load.mean() - load).sign()
            self.load.zero_()


class Experts(nn.Module):
    """SwiGLU feed-forwards, computed together: the products of all experts are one grouped product."""

    exchange: Exchange | None = None
    """Set where other ranks hold some of the experts."""

    def __init__(self, *, dim: int, experts: int, hidden: int) -> None:
        super().__init__()
        self.experts = experts
        self.w1 = nn.Parameter(torch.empty(experts, hidden, dim))
        self.w2 = nn.Parameter(torch.empty(experts, dim, hidden))
        self.w3 = nn.Parameter(torch.empty(experts, hidden, dim))

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Tokens [tokens, dim], weights and numbers of their experts [tokens, per token], to [tokens, dim]."""
        flat, copies = chosen.flatten(), chosen.shape[1]
        order = flat.argsort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        counts = flat.new_zeros(self.experts).scatter_add_(0, flat, torch.ones_like(flat))
        rows = Reorder.apply(x, order, inverse, copies)
        if self.exchange is None:
            rows = self.products(rows, counts)
        else:
            received, arrived, back = self.exchange.dispatch(rows, counts)
            rows = back(self.products(received, arrived))
        rows = Reorder.apply(rows, inverse, order, 1).unflatten(0, (-1, copies))
        return (rows * weights[..., None]).sum(1)

    def products(self, rows: Tensor, counts: Tensor) -> Tensor:
        """The experts' SwiGLU of rows [n, dim] that are sorted by expert, `counts` [experts held] for each."""
        w1, w2, w3 = (weight.to(rows.dtype) for weight in (self.w1, self.w2, self.w3))
        if rows.dtype == torch.bfloat16:
            ends = counts.cumsum(0).to(torch.int32)
            hidden = F.silu(grouped(rows, w1, ends)) * grouped(rows, w3, ends)
            return grouped(hidden, w2, ends)
        # torch's grouped product is for bf16
        each = zip(rows.split(counts.tolist()), w1, w2, w3, strict=True)
        return torch.cat([F.linear(F.silu(F.linear(own, a)) * F.linear(own, c), b) for own, a, b, c in each])


def grouped(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Rows [n, in] times the matrix of their group, of `weight` [groups, out, in]; a group ends before `ends`."""
    return F.grouped_mm(rows, weight.transpose(-2, -1), offs=ends)


class MixtureOfExperts(nn.Module):
    """Routed experts, and shared ones, as one feed-forward, that take every token: [batch, seq, dim] to the same."""

    def __init__(
        self,
        *,
        dim: int,
        experts: int,
        experts_per_token: int,
        expert_ffn_dim: int,
        shared_experts: int,
        normalise_routes: bool,
        balance: str,
        balance_rate: float,
    ) -> None:
        super().__init__()
        self.router = Router(
            dim=dim,
            experts=experts,
            experts_per_token=experts_per_token,
            normalise=normalise_routes,
            balance=balance,
            balance_rate=balance_rate,
        )
        self.experts = Experts(dim=dim, experts=experts, hidden=expert_ffn_dim)
        self.shared = FeedForward(dim=dim, hidden=shared_experts * expert_ffn_dim) if shared_experts else None

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x)
        routed = self.experts(x.flatten(0, 1), weights.flatten(0, 1), chosen.flatten(0, 1)).view_as(x)
        return routed if self.shared is None else routed + self.shared(x)
