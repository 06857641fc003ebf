"""Sampled steps on GPUs: the flight recorder's account of an ordinary step, and a window around the sampled one."""

from collections.abc import Mapping, Sequence

from harness.recorder import nccl
from harness.recorder.flight import Entry, exchanges, operation, uneven
from harness.recorder.groups import Groups
from harness.recorder.kineto import Activity, KinetoWindow, launching, matched
from harness.recorder.nccl import NAMES, FlightRecorderSampler, gapless
from harness.recorder.operations import StepOperations
from harness.recorder.timeline import SENDS, Communication, Timeline


class CudaSampler:
    """Both accounts of a sampled step come after it, so that nothing is exchanged inside the window."""

    def __init__(self, labels: Mapping[str, tuple[str, int]]) -> None:
        self.flight = FlightRecorderSampler(labels)
        self.window = KinetoWindow()
        self.earlier: StepOperations | None = None

    def step_issued(self, step: int, began: int) -> None:
        self.flight.step_issued(step, began)

    def before_sampled_step(self, step: int) -> None:
        self.earlier = self.flight.before_sampled_step(step)
        self.window.start()

    def after_sampled_step(self, step: int) -> list[StepOperations]:
        ran = self.window.stop()
        told, begin, end = self.flight.issued[-1]
        assert told == step
        ring = nccl.dump()
        own = [entry for entry in ring if begin <= entry["time_created_ns"] < end]
        whole = gapless(own) and (not ring or ring[0]["time_created_ns"] < begin)
        sampled = account(step, ran, own, self.flight.groups, whole)
        return [sampled] if self.earlier is None else [self.earlier, sampled]


def account(
    step: int, ran: Sequence[Activity], issued: Sequence[Entry], groups: Groups, whole: bool = True
) -> StepOperations:
    """A step from what ran on the device and the flight recorder's entries of the same step; all other kernels compute.

    Where the two do not tell the same operations, none is told and the account is partial.
    """
    pairs = matched([activity for activity in ran if activity.exchanges], launching(issued, groups)) if whole else None
    operations, others = [], []
    spread = uneven([entry for entry, _ in pairs or [] if NAMES.get(entry["profiling_name"]) == "all_to_all"])
    for entry, kernel in pairs or []:
        op = NAMES.get(entry["profiling_name"].split(" ")[0], SENDS)
        if op == SENDS:
            # one end of it, both, a batch, or a barrier
            others.append(Communication(op, groups[entry["process_group"][0]][0], kernel.start, kernel.end, None))
            continue
        spreads = op == "all_to_all" and exchanges(entry) in spread
        start, duration = kernel.start / 1e9, (kernel.end - kernel.start) / 1e9
        operations.append(operation(op, [entry], groups, start, duration, uneven=spreads))
    compute = [(activity.start, activity.end) for activity in ran if not activity.exchanges]
    timeline = Timeline("kineto", compute, others, whole=pairs is not None)
    return StepOperations(step, operations, partial=pairs is None, source="kineto", timeline=timeline)
