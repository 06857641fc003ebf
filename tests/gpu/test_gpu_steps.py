"""On a GPU: steps that never hold the host up, and device times that agree with the clock on the wall."""

import itertools
import time

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks

from harness.models.attention import preferred_attention
from harness.recorder.clock import CudaClock
from harness.recorder.exchange import Exchange

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def steps_without_waiting(kind: str, source: str) -> list[float]:
    device = torch.device("cuda", torch.cuda.current_device())
    trained = tiny.build(kind, device, compute=torch.bfloat16)
    batches = tiny.data(*trained.coordinates, 2, device, source)
    losses = []
    with preferred_attention():
        for step in range(1, 9):
            # allocations and communicators of the first steps may synchronise
            torch.cuda.set_sync_debug_mode("error" if step > 3 else "default")
            losses.append(trained.forward_backward(batches.batch(step)))
            trained.update(1e-3)
        torch.cuda.set_sync_debug_mode("default")
    return torch.stack(losses).tolist()


@pytest.mark.parametrize("source", ["bytes", "synthetic"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_no_host_synchronisation_inside_a_step(kind, source):
    ranks = min(2, torch.cuda.device_count())
    for losses in run_ranks(ranks, steps_without_waiting, kind, source, backend="nccl"):
        assert len(losses) == 8
        assert all(0 < loss < 7 for loss in losses)


def event_and_wall_seconds() -> tuple[float, float]:
    clock, x = CudaClock(), torch.randn(4096, 4096, device="cuda")
    for _ in range(3):
        x @ x
    torch.cuda.synchronize()
    begin = time.perf_counter()
    marks = [clock.mark()]
    for _ in range(20):
        for _ in range(10):
            x @ x
        marks.append(clock.mark())
    torch.cuda.synchronize()
    wall = time.perf_counter() - begin
    return sum(clock.seconds(a, b) for a, b in itertools.pairwise(marks)), wall


def test_event_times_tile_a_synchronised_window():
    ((device, wall),) = run_ranks(1, event_and_wall_seconds, backend="nccl")
    assert device == pytest.approx(wall, rel=0.01)


def exchanged() -> tuple[list, list]:
    device = torch.device("cuda", torch.cuda.current_device())
    rank, exchange = torch.distributed.get_rank(), Exchange(device)
    largest = exchange.reduce(torch.tensor([rank, -rank]), torch.distributed.ReduceOp.MAX)
    rows = exchange.gather(torch.tensor([float(rank), float("nan")], dtype=torch.float64))
    return largest.result().tolist(), rows.result()[:, 0].tolist()


def test_exchange_brings_numbers_home_from_all_ranks():
    ranks = min(2, torch.cuda.device_count())
    for largest, rows in run_ranks(ranks, exchanged, backend="nccl"):
        assert largest == [ranks - 1, 0]
        assert rows == [float(rank) for rank in range(ranks)]
