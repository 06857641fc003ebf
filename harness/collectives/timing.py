"""How long a call takes: batches of calls between two marks, begun together, each lasting as on the slowest rank."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from harness.recorder.clock import Clock

BATCHES = 5
MOST_CALLS = 1000
"""Calls of one batch at most: so many are under way at once where the host only issues them."""

GRAPHED_CALLS = 20
"""Calls in one CUDA graph."""

WARM_UP = 0.2
"""Warm-up, as a share of the time in which calls are timed."""


@dataclass(frozen=True)
class Launch:
    """What is run to make `calls` calls of an operation."""

    run: Callable[[], None]
    calls: int


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, a value a batch, each on the rank that was slowest in it; `own_s` is this rank's, in all."""

    calls: int
    seconds: list[float]
    own_s: float


def timed(launch: Launch, clock: Clock, device: torch.device, aim_s: float) -> Timing:
    """Time an operation for about `aim_s` seconds, with the same number of calls on every rank."""
    [once] = slowest([batch(launch, 1, clock, device)], device)
    warm_up = runs(once, WARM_UP * aim_s, launch)
    [warm] = slowest([batch(launch, warm_up, clock, device)], device)
    times = runs(warm / warm_up, aim_s / BATCHES, launch)
    own = [batch(launch, times, clock, device) for _ in range(BATCHES)]
    calls = times * launch.calls
    return Timing(calls, [seconds / calls for seconds in slowest(own, device)], sum(own))


def runs(seconds: float, aim_s: float, launch: Launch) -> int:
    """How often to run what takes so many seconds, to fill a time."""
    return max(1, min(round(aim_s / seconds), MOST_CALLS // launch.calls))


def batch(launch: Launch, times: int, clock: Clock, device: torch.device) -> float:
    """Seconds that so many runs take on this rank, in the order of the device's work."""
    # all ranks pass this at the same time, on the device as well
    dist.all_reduce(torch.zeros(1, device=device))
    begin = clock.mark()
    for _ in range(times):
        launch.run()
    end = clock.mark()
    clock.settle(end)
    return clock.seconds(begin, end)


def slowest(seconds: list[float], device: torch.device) -> list[float]:
    """The largest over all ranks, of each."""
    most = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    found: list[float] = most.tolist()
    return found


def captured(run: Callable[[], None], calls: int) -> Launch:
    """So many calls in a CUDA graph, which the host launches at once."""
    graph = torch.cuda.CUDAGraph()
    # other threads go on with calls of their own meanwhile, such as NCCL's watchdog
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(calls):
            run()
    return Launch(graph.replay, calls)
