from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from harness.models.experts import MixtureOfExperts, Router

DIM, EXPERTS, PER_TOKEN, RATE = 16, 6, 2, 0.1


def router(**changes: Any) -> Router:
    plain: dict[str, Any] = {
        "dim": DIM,
        "experts": EXPERTS,
        "experts_per_token": PER_TOKEN,
        "normalise": True,
        "balance": "none",
        "balance_rate": RATE,
    }
    torch.manual_seed(0)
    return Router(**{**plain, **changes})


def written_loss(scores: Tensor, chosen: Tensor) -> Tensor:
    """The auxiliary loss of whole sequences, as DeepSeek-V3 writes it: a loop over sequences and experts."""
    total = torch.zeros(())
    batch, seq, experts = scores.shape
    for sequence in range(batch):
        for expert in range(experts):
            taken = (chosen[sequence] == expert).sum() * experts / (PER_TOKEN * seq)
            total = total + RATE * taken * scores[sequence, :, expert].mean()
    return total / batch


def test_weights_are_the_highest_scores_and_sum_to_one_where_normalised() -> None:
    x = torch.randn(2, 7, DIM)
    for normalise in (False, True):
        routes = router(normalise=normalise)
        weights, chosen = routes(x)
        best = routes.gate(x).softmax(-1).topk(PER_TOKEN, dim=-1)
        wanted = best.values / best.values.sum(-1, keepdim=True) if normalise else best.values
        torch.testing.assert_close(weights, wanted)
        assert torch.equal(chosen, best.indices)


def test_scores_are_taken_in_fp32_and_weights_given_in_the_type_that_flows() -> None:
    routes = router(normalise=False)
    x = torch.randn(2, 7, DIM).bfloat16()
    logits = torch.einsum("bsd,ed->bse", x.double(), routes.gate.weight.bfloat16().double())
    torch.testing.assert_close(routes.gate(x).double(), logits, atol=1e-5, rtol=1e-5)
    weights, chosen = routes(x)
    assert weights.dtype == torch.bfloat16
    torch.testing.assert_close(weights.double(), logits.softmax(-1).gather(-1, chosen), atol=0, rtol=2**-8)


def test_the_auxiliary_gradient_is_that_of_the_written_loss_and_changes_no_weight() -> None:
    x = torch.randn(3, 8, DIM)
    plain, balanced = router(), router(balance="aux")
    along = torch.randn(3, 8, PER_TOKEN)

    weights, chosen = balanced(x)
    assert torch.equal(weights, plain(x)[0])
    ((weights * along).sum()).backward()

    scores = plain.gate(x).softmax(-1)
    ((plain(x)[0] * along).sum() + written_loss(scores, chosen)).backward()
    torch.testing.assert_close(balanced.gate.weight.grad, plain.gate.weight.grad)

    apart = router()
    (apart(x)[0] * along).sum().backward()
    assert (apart.gate.weight.grad - plain.gate.weight.grad).abs().max() > 1e-4


def test_microbatches_add_up_to_the_auxiliary_gradient_of_all_sequences() -> None:
    x = torch.randn(4, 8, DIM)
    whole, parts = router(balance="aux"), router(balance="aux")
    (whole(x)[0].sum() * 0).backward()
    parts.aux_share = 1 / 2
    for microbatch in x.split(2):
        (parts(microbatch)[0].sum() * 0).backward()
    torch.testing.assert_close(parts.gate.weight.grad, whole.gate.weight.grad)
    assert whole.gate.weight.grad.abs().max() > 1e-4


def test_ranks_that_share_sequences_have_the_auxiliary_gradient_in_their_mean() -> None:
    x = torch.randn(2, 8, DIM)
    whole, shared = router(balance="aux"), router(balance="aux")
    (whole(x)[0].sum() * 0).backward()
    counts = [shared.counts(shared(half)[1]) for half in x.chunk(2, dim=1)]
    shared.sequence_ranks = 2
    shared.over_sequence = lambda own: counts[0] + counts[1]
    for half in x.chunk(2, dim=1):
        (shared(half)[0].sum() * 0).backward()
    torch.testing.assert_close(shared.gate.weight.grad / 2, whole.gate.weight.grad)


def test_a_bias_changes_who_is_chosen_and_not_the_weights() -> None:
    routes = router(balance="bias", normalise=False)
    x = torch.randn(2, 7, DIM)
    routes.bias[3] = 1.0
    weights, chosen = routes(x)
    assert (chosen == 3).any(-1).all()
    torch.testing.assert_close(weights, routes.gate(x).softmax(-1).gather(-1, chosen))


def test_rebalancing_favours_who_took_less_than_the_mean_and_counts_anew() -> None:
    routes = router(balance="bias")
    routes(torch.randn(2, 7, DIM))
    assert routes.load.sum() == 2 * 7 * PER_TOKEN
    routes.rebalance(torch.tensor([10, 10, 4, 16, 0, 20]))
    torch.testing.assert_close(routes.bias, RATE * torch.tensor([0.0, 0.0, 1.0, -1.0, 1.0, -1.0]))
    assert routes.load.sum() == 0


def test_the_bias_moves_towards_an_even_load() -> None:
    routes = router(balance="bias", balance_rate=0.005)
    x = torch.randn(8, 32, DIM) + torch.randn(DIM)
    uneven = []
    for _ in range(200):
        routes(x)
        uneven.append((routes.load.max() / routes.load.float().mean()).item())
        routes.rebalance(routes.load)
    assert uneven[0] > 1.5
    assert max(uneven[-10:]) < 1.2


@pytest.mark.parametrize("balance", ["none", "aux"])
def test_without_a_bias_nothing_moves(balance: str) -> None:
    routes = router(balance=balance)
    routes(torch.randn(2, 7, DIM))
    routes.rebalance(torch.arange(EXPERTS))
    assert not routes.bias.any()


def test_a_pass_that_trains_nothing_counts_for_nothing() -> None:
    routes = router(balance="bias")
    with torch.no_grad():
        routes(torch.randn(2, 7, DIM))
    assert not routes.load.any()


@pytest.mark.parametrize("balance", ["aux", "bias"])
def test_recomputation_in_backward_changes_neither_gradients_nor_who_is_favoured(balance: str) -> None:
    told = []
    for wrap in (lambda layer: layer, checkpoint_wrapper):
        torch.manual_seed(0)
        layer = MixtureOfExperts(
            dim=DIM,
            experts=EXPERTS,
            experts_per_token=PER_TOKEN,
            expert_ffn_dim=24,
            shared_experts=0,
            normalise_routes=True,
            balance=balance,
            balance_rate=RATE,
        )
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        wrap(layer)(torch.randn(2, 9, DIM)).square().sum().backward()
        load = layer.router.load.clone()
        layer.router.rebalance(load)
        told.append((load, layer.router.bias, [parameter.grad for parameter in layer.parameters()]))
    (once, bias, gradients), (again, same_bias, same_gradients) = told
    torch.testing.assert_close(same_gradients, gradients)
    assert torch.equal(bias, same_bias) and bias.any() == (balance == "bias")
    assert torch.equal(again * once.sum(), once * again.sum())


def test_the_router_learns_from_what_its_experts_give() -> None:
    routes = router(normalise=True)
    weights, _ = routes(torch.randn(2, 7, DIM))
    (weights * torch.randn(2, 7, PER_TOKEN)).sum().backward()
    assert routes.gate.weight.grad.abs().max() > 1e-3
