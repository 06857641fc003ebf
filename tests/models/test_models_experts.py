from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.models.experts import Experts, MixtureOfExperts

DIM, EXPERTS, PER_TOKEN, HIDDEN = 16, 6, 2, 24


def mixture(**changes: Any) -> MixtureOfExperts:
    plain: dict[str, Any] = {
        "dim": DIM,
        "experts": EXPERTS,
        "experts_per_token": PER_TOKEN,
        "expert_ffn_dim": HIDDEN,
        "shared_experts": 0,
        "normalise_routes": True,
        "balance": "none",
        "balance_rate": 0.001,
    }
    torch.manual_seed(0)
    made = MixtureOfExperts(**{**plain, **changes})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def expert(experts: Experts, index: int, x: Tensor) -> Tensor:
    w1, w2, w3 = (weight[index].to(x.dtype) for weight in (experts.w1, experts.w2, experts.w3))
    return (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T


def token_by_token(layer: MixtureOfExperts, x: Tensor, normalise: bool) -> Tensor:
    """What the layer is to give, by a loop over tokens."""
    rows = []
    for token in x.flatten(0, 1):
        scores = (layer.router.gate.weight @ token).softmax(0)
        best = scores.argsort(descending=True)[:PER_TOKEN]
        weights = scores[best] / scores[best].sum() if normalise else scores[best]
        rows.append(
            sum(weight * expert(layer.experts, index, token) for weight, index in zip(weights, best, strict=True))
        )
        if layer.shared is not None:
            rows[-1] = rows[-1] + layer.shared(token)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("shared", [0, 2])
def test_a_mixture_is_its_experts_token_by_token_forward_and_backward(shared: int, normalise: bool) -> None:
    layer = mixture(shared_experts=shared, normalise_routes=normalise)
    x = torch.randn(2, 9, DIM, requires_grad=True)
    given, wanted = layer(x), token_by_token(layer, x, normalise)
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-5)
    along, trained = torch.randn_like(given), [x, *layer.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(given, trained, along), torch.autograd.grad(wanted, trained, along), atol=1e-4, rtol=1e-4
    )


def test_no_token_is_dropped_however_uneven_the_load() -> None:
    experts = mixture().experts
    x, weights = torch.randn(50, DIM), torch.rand(50, PER_TOKEN)
    chosen = torch.tensor([[4, 1]]).repeat(50, 1)
    wanted = weights[:, :1] * expert(experts, 4, x) + weights[:, 1:] * expert(experts, 1, x)
    torch.testing.assert_close(experts(x, weights, chosen), wanted, atol=1e-5, rtol=1e-5)


def test_an_expert_without_tokens_gets_a_gradient_of_zeros() -> None:
    experts = mixture().experts
    experts(torch.randn(5, DIM), torch.rand(5, 1), torch.full((5, 1), 3)).sum().backward()
    for weight in experts.parameters():
        assert weight.grad is not None
        assert weight.grad[3].abs().sum() > 0
        assert weight.grad.abs().sum() == weight.grad[3].abs().sum()


@pytest.mark.parametrize("counts", [[3, 0, 7, 1, 0, 5], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 31]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_take_groups_of_any_size_in_both_types(dtype: torch.dtype, counts: list[int]) -> None:
    experts = mixture().experts
    rows = torch.randn(sum(counts), DIM, dtype=dtype, requires_grad=True)
    given = experts.products(rows, torch.tensor(counts))
    wanted = torch.cat([expert(experts, index, own) for index, own in enumerate(rows.split(counts))])
    near = {"atol": 0.1, "rtol": 0.05} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(given, wanted, **near)
    along, trained = torch.randn_like(given), [rows, *experts.parameters()]
    gradients = torch.autograd.grad(given, trained, along)
    torch.testing.assert_close(gradients, torch.autograd.grad(wanted, trained, along), **near)


class HalfThere:
    """An exchange with a rank that has the first half of the experts, and no tokens; this one has the others."""

    def __init__(self, absent: Experts) -> None:
        self.absent = absent

    def dispatch(self, rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        away, here = rows.split([int(counts[: EXPERTS // 2].sum()), int(counts[EXPERTS // 2 :].sum())])
        theirs = self.absent.products(away, counts[: EXPERTS // 2])
        return here, counts[EXPERTS // 2 :], lambda back: torch.cat((theirs, back))


def test_rows_that_travel_to_their_experts_come_back_to_their_tokens() -> None:
    experts = mixture().experts
    x, weights = torch.randn(20, DIM), torch.rand(20, PER_TOKEN)
    chosen = torch.rand(20, EXPERTS).argsort(dim=1)[:, :PER_TOKEN]
    wanted = experts(x, weights, chosen)
    absent = mixture().experts
    for name in ("w1", "w2", "w3"):
        first, second = getattr(experts, name).detach().chunk(2)
        setattr(absent, name, torch.nn.Parameter(first))
        setattr(experts, name, torch.nn.Parameter(second))
    experts.exchange = HalfThere(absent)
    torch.testing.assert_close(experts(x, weights, chosen), wanted)
