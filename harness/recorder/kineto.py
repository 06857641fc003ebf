"""What ran on the device in a step, from a window of Kineto's around it, and which collective each NCCL kernel is.

The window has CUDA's activity alone: recording the host's calls would slow the step down.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from harness.recorder.flight import Entry
from harness.recorder.groups import Groups
from harness.recorder.nccl import NAMES, batches, ends_batch, sequence

KERNELS = {
    "all_reduce": "AllReduce",
    "all_gather": "AllGather",
    "reduce_scatter": "ReduceScatter",
    "all_to_all": "SendRecv",
    "broadcast": "Broadcast",
    "reduce": "Reduce",
    "send_recv": "SendRecv",
}
"""What NCCL calls its kernels: "ncclDevKernel_AllReduce_Sum_f32_RING_LL". Some are for several operations."""


@dataclass(frozen=True)
class Activity:
    """A kernel, a copy or a fill on the device, from when to when (nanoseconds since the epoch).

    launch: numbers in the order in which the host launched them.
    """

    name: str
    start: int
    end: int
    launch: int

    @property
    def exchanges(self) -> bool:
        return self.name.startswith("nccl")


class KinetoWindow:
    """One step's activities. Both ends wait for the device, so that no other step's work lies inside."""

    def start(self) -> None:
        torch.cuda.synchronize()
        self.profiler = profile(activities=[ProfilerActivity.CUDA])
        self.profiler.start()

    def stop(self) -> list[Activity]:
        torch.cuda.synchronize()
        self.profiler.stop()
        assert self.profiler.profiler is not None
        results = self.profiler.profiler.kineto_results
        assert results is not None
        del self.profiler
        return activities(results.events())


def activities(events: Sequence[Any]) -> list[Activity]:
    """Those of the device, in the order of their launch; ranges that a program has named are none."""
    found = [
        Activity(event.name(), event.start_ns(), event.end_ns(), event.correlation_id())
        for event in events
        if event.device_type() == DeviceType.CUDA and not event.is_user_annotation()
    ]
    return sorted(found, key=lambda activity: activity.launch)


def launching(issued: Sequence[Entry], groups: Groups) -> list[Entry]:
    """The flight recorder's entries that launch a kernel: of a batch its end does, in a group of one rank nothing."""
    ends = batches(issued)
    return [
        entry
        for entry in issued
        if groups[entry["process_group"][0]][1] > 1 and (ends_batch(entry) or sequence(entry) not in ends)
    ]


def matched(ran: Sequence[Activity], issued: Sequence[Entry]) -> list[tuple[Entry, Activity]] | None:
    """Each entry with its kernel, both in the order of their launch; None where they are not the same operations."""
    if len(ran) != len(issued) or not all(map(fits, issued, ran)):
        return None
    return list(zip(issued, ran, strict=True))


def fits(entry: Entry, kernel: Activity) -> bool:
    """Whether the kernel can be the entry's, as far as its name tells."""
    op = NAMES.get(entry["profiling_name"].split(" ")[0])
    told = re.match(r"ncclDevKernel_([A-Za-z]+)_", kernel.name)
    return op is None or told is None or told[1] not in KERNELS.values() or told[1] == KERNELS[op]
