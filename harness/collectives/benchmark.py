"""The collective benchmark on one rank: every operation at every size, timed and checked."""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.distributed as dist

from harness.collectives.check import fill, refuse, wrong_elements
from harness.collectives.operations import Buffers, Call
from harness.collectives.timing import GRAPHED_CALLS, Launch, captured, timed
from harness.plan.benchmark import TIMED_S, called, launches
from harness.plan.busbw import algbw, busbw
from harness.recorder.clock import Clock

Write = Callable[..., None]


def benchmark(
    operations: tuple[str, ...], sizes: list[int], buffers: Buffers, device: torch.device, clock: Clock, write: Write
) -> None:
    """Time all operations at all sizes over all ranks; `write` gets a `benchmark` record of each.

    WrongResult on a rank that got a wrong element, when its record is written.
    """
    for op in operations:
        for size in sizes:
            if actual := called(op, size, dist.get_world_size()):
                call = buffers.call(op, actual)
                for graph in launches(size, device.type):
                    wrong = measure(call, graph, device, clock, write)
                    refuse(wrong, f"{op} of {actual} bytes", len(call.got))


def measure(call: Call, graph: bool, device: torch.device, clock: Clock, write: Write) -> list[int]:
    """Time one operation of one size, launched one way; every rank's number of wrong elements."""
    start, begin = time.time(), time.perf_counter()
    fill(call)
    call.run()  # opens connections and loads kernels, which no graph can
    launch = captured(call.run, GRAPHED_CALLS) if graph else Launch(call.run, 1)
    timing = timed(launch, clock, device, TIMED_S[device.type])
    wrong = wrong_elements(call, captured(call.run, 1).run if graph else call.run)
    duration, ranks = median(timing.seconds), dist.get_world_size()
    write(
        "benchmark",
        op=call.op,
        bytes=call.size,
        group_size=ranks,
        dtype="fp32",
        graph=graph,
        in_place=call.in_place,
        iterations=timing.calls,
        batches=len(timing.seconds),
        duration_s=duration,
        duration_min_s=min(timing.seconds),
        duration_max_s=max(timing.seconds),
        algbw=algbw(call.size, duration),
        busbw=busbw(call.op, call.size, duration, ranks),
        wrong=sum(wrong),
        start=start,
        timed_s=timing.own_s,
        whole_s=time.perf_counter() - begin,
    )
    return wrong
