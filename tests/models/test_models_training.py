from itertools import pairwise

import pytest
import torch
from tiny_training import SHAPES, bare

from harness.models.experts import Router
from harness.models.initialize import STD, initialize
from harness.models.transformer import Transformer, cross_entropy


def filled(shape: str, seed: int = 0) -> Transformer:
    model = Transformer(**SHAPES[shape])
    initialize(model, 4, seed, torch.device("cpu"))
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_falls_step_by_step(shape: str) -> None:
    losses = [loss for loss, _ in bare(shape)]
    assert all(later < before for before, later in pairwise(losses))
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize("shape", SHAPES)
def test_every_parameter_gets_a_gradient(shape: str) -> None:
    model = filled(shape)
    tokens = torch.randint(0, 256, (4, 64), generator=torch.Generator().manual_seed(0))
    cross_entropy(model(tokens), tokens.roll(-1, 1)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("shape", SHAPES)
def test_projections_into_the_residual_stream_begin_smaller(shape: str) -> None:
    for name, parameter in filled(shape).named_parameters():
        if parameter.dim() == 1:
            assert parameter.eq(1).all(), name
        else:
            into_stream = name.endswith(("wo.weight", "w2.weight", "w2"))
            wanted = STD / 8**0.5 if into_stream else STD
            assert parameter.std().item() == pytest.approx(wanted, rel=0.2), name


def test_initialising_clears_what_routers_have_counted_and_learnt() -> None:
    model = filled("mla")
    routers = [module for module in model.modules() if isinstance(module, Router)]
    assert len(routers) == 3
    model(torch.zeros(1, 8, dtype=torch.int64))
    model.balance()
    assert all(router.bias.any() for router in routers)
    model(torch.zeros(1, 8, dtype=torch.int64))
    initialize(model, 4, 0, torch.device("cpu"))
    assert not any(router.bias.any() or router.load.any() for router in routers)


def test_the_first_blocks_keep_a_dense_feed_forward() -> None:
    kinds = [type(block.feed_forward).__name__ for block in filled("mla").blocks.values()]
    assert kinds == ["FeedForward", "MixtureOfExperts", "MixtureOfExperts", "MixtureOfExperts"]
