"""The benchmark of collectives on NCCL: as fast as a plain loop says, as right at 4 GiB, and no slower in graphs."""

from statistics import median

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks

from harness.collectives.benchmark import measure
from harness.collectives.check import wrong_elements
from harness.collectives.operations import Buffers
from harness.collectives.timing import captured
from harness.config import OPERATIONS
from harness.plan.busbw import busbw
from harness.recorder.clock import CudaClock

KIB, MIB, GIB = 2**10, 2**20, 2**30
LARGE = (16 * MIB, 64 * MIB, 256 * MIB)
ROUNDS = 3

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


def here() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


def recorded(buffers: Buffers, op: str, size: int, graph: bool = False) -> dict:
    told = {}
    measure(buffers.call(op, size), graph, here(), CudaClock(), lambda kind, **record: told.update(record))
    return told


def plain_loop(size: int, calls: int = 50) -> float:
    """Seconds of an all-reduce of fp32 numbers, on the slowest rank: CUDA events around a loop of calls."""
    numbers = torch.zeros(size // 4, device=here())
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(5):
        dist.all_reduce(numbers)
    dist.barrier()
    begin.record()
    for _ in range(calls):
        dist.all_reduce(numbers)
    end.record()
    end.synchronize()
    took = torch.tensor(begin.elapsed_time(end) / 1e3 / calls, device=here())
    dist.all_reduce(took, dist.ReduceOp.MAX)
    return took.item()


def beside_a_plain_loop() -> dict[int, tuple[float, float]]:
    """Bus bandwidth by size: as the benchmark records it, and of a plain loop, taken in turns."""
    buffers, found = Buffers(max(LARGE), 0, here()), {}
    for size in LARGE:
        turns = [(recorded(buffers, "all_reduce", size)["duration_s"], plain_loop(size)) for _ in range(ROUNDS)]
        own, plain = (median(column) for column in zip(*turns, strict=True))
        found[size] = tuple(busbw("all_reduce", size, seconds, 2) for seconds in (own, plain))
    return found


def test_all_reduce_of_16_mib_and_more_is_as_fast_as_in_a_plain_loop() -> None:
    for size, (own, plain) in run_ranks(2, beside_a_plain_loop, backend="nccl")[0].items():
        print(f"all_reduce {size / MIB:.0f} MiB: {own / 1e9:.1f} GB/s, a plain loop {plain / 1e9:.1f} GB/s")
        assert own == pytest.approx(plain, rel=0.03), size


def small_ones() -> dict[tuple[str, int], tuple[dict, dict]]:
    buffers = Buffers(64 * KIB, 64 * KIB, here())
    return {
        (op, size): (recorded(buffers, op, size), recorded(buffers, op, size, graph=True))
        for op in OPERATIONS
        for size in (KIB, 8 * KIB, 64 * KIB)
    }


def test_small_operations_are_no_slower_in_graphs_and_right_there_too() -> None:
    for (op, size), (plain, graphed) in run_ranks(2, small_ones, backend="nccl")[0].items():
        print(f"{op} {size} bytes: {plain['duration_s'] * 1e6:.1f} µs, in a graph {graphed['duration_s'] * 1e6:.1f} µs")
        assert (plain["graph"], graphed["graph"]) == (False, True)
        assert plain["wrong"] == graphed["wrong"] == 0
        # what two takes of the same differ by
        assert graphed["duration_s"] <= 1.05 * plain["duration_s"], (op, size)


def wrong_at_4_gib() -> tuple[dict[str, list[int]], float]:
    buffers = Buffers(4 * GIB, 4 * GIB, here())
    calls = [buffers.call(op, 4 * GIB) for op in OPERATIONS]
    wrong = {call.op: wrong_elements(call, call.run) for call in calls}
    return wrong, torch.cuda.max_memory_allocated() / GIB


def test_every_element_is_right_at_4_gib_in_little_more_memory_than_the_buffers() -> None:
    for wrong, gibibytes in run_ranks(2, wrong_at_4_gib, backend="nccl"):
        assert wrong == {op: [0, 0] for op in OPERATIONS}
        assert gibibytes < 8 + 1


def broken_in_a_graph() -> list[int]:
    call = Buffers(KIB, KIB, here()).call("all_gather", KIB)

    def run() -> None:
        call.run()
        if dist.get_rank() == 1:
            call.got[-1:].fill_(-1)

    run()
    return wrong_elements(call, captured(run, 1).run)


def test_a_wrong_element_is_found_in_a_graph() -> None:
    assert run_ranks(2, broken_in_a_graph, backend="nccl") == [[0, 1]] * 2
