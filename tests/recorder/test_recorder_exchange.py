"""Numbers that are brought together over the ranks hold up nobody."""

from datetime import timedelta

import torch
import torch.distributed as dist
from ranks import run_ranks

from harness.recorder.exchange import Exchange, Pending


def sent(exchange: Exchange, rank: int) -> list[Pending]:
    return [
        exchange.reduce(torch.tensor([rank, -rank]), dist.ReduceOp.MAX),
        exchange.smallest(torch.tensor([rank]), dist.group.WORLD.group_name),
        exchange.gather(torch.tensor([rank])),
    ]


def one_after_the_other() -> list[list]:
    """Rank 1 takes part only when rank 0 has gone on; results are asked for in another order than they were begun."""
    store, rank, exchange = dist.distributed_c10d._get_default_store(), dist.get_rank(), Exchange(torch.device("cpu"))
    if rank == 1:
        store.wait(["gone on"], timedelta(seconds=60))
    first = sent(exchange, rank)
    if rank == 0:
        store.set("gone on", "")
    second = sent(exchange, 10 + rank)
    found = [[pending.result().tolist() for pending in some] for some in (second, first)]
    exchange.settle()
    assert exchange.under_way == []
    return found


def test_no_rank_waits_for_a_late_one_before_it_wants_the_result() -> None:
    wanted = [[[11, -10], [10], [[10], [11]]], [[1, 0], [0], [[0], [1]]]]
    assert run_ranks(2, one_after_the_other) == [wanted, wanted]
