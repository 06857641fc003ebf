"""The rate of a matrix product, measured at the start on all ranks at once."""

import pytest
import torch
from ranks import run_ranks
from run_dirs import make_config, make_start

from harness.recorder import ceiling as module
from harness.recorder.ceiling import ceiling
from harness.recorder.exchange import Exchange

CPU = torch.device("cpu")


def measured(kind: str, absent_on: tuple[int, ...] = ()) -> dict | None:
    if torch.distributed.get_rank() in absent_on:

        def absent(*_):
            raise RuntimeError("no such product")

        module._product = absent  # of this forked rank alone
    return ceiling(kind, Exchange(CPU), CPU)


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_ranks_agree_on_a_rate_soon(kind):
    told, other = run_ranks(2, measured, kind)
    assert {**told, "duration_s": 0} == {**other, "duration_s": 0}
    assert 0 < told["slowest_flops_per_s"] <= told["flops_per_s"] < 1e15
    assert told["duration_s"] < 2
    assert (told["type"], told["size"]) == (kind, 512)
    make_start(make_config(), 0.0, matmul=told)


def test_a_rank_without_the_product_leaves_the_others_theirs():
    told, _ = run_ranks(2, measured, "fp32", (0,))
    assert told["slowest_rank"] == 1
    assert told["flops_per_s"] == told["slowest_flops_per_s"] > 0


def test_where_no_rank_has_the_product_there_is_none():
    assert run_ranks(2, measured, "fp32", (0, 1)) == [None, None]


def test_a_slow_rank_is_named():
    told, _ = run_ranks(2, slowed)
    assert told["slowest_rank"] == 1
    assert told["slowest_flops_per_s"] < 0.7 * told["flops_per_s"]


def slowed() -> dict | None:
    if torch.distributed.get_rank() == 1:
        plain = module._product
        module._product = lambda *given: lambda: [plain(*given)() for _ in range(8)][-1]
    return ceiling("fp32", Exchange(CPU), CPU)
