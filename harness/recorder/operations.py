"""Collective operations of one step: what one rank saw, and what all ranks say together."""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from harness.plan.busbw import busbw

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")
SMALL_BYTES = 64 * 1024
"""Operations under this size carry control values, not gradients, and are kept apart."""

CLASSES = 32
"""Kinds of operation (op, group, size, bytes) of a step whose durations are compared over ranks."""

Class = tuple[str, str, int, int]


@dataclass(frozen=True)
class Operation:
    """One collective on one rank: bytes by nccl-tests' convention, start and duration in seconds or None."""

    op: str
    group: str
    group_size: int
    bytes: int
    start: float | None
    duration: float | None

    @property
    def key(self) -> Class:
        return self.op, self.group, self.group_size, self.bytes

    @property
    def small(self) -> bool:
        return self.bytes < SMALL_BYTES


def union_seconds(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds covered by at least one of the (start, duration) spans."""
    covered, reached = 0.0, float("-inf")
    for start, duration in sorted(spans):
        end = start + duration
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def step_seconds(operations: Sequence[Operation], op: str) -> float:
    """Seconds of a step in operations of a kind, small ones left out; NaN where there are none or one is untimed.

    Spans that overlap count once, as gloo's asynchronous ones do; NCCL runs a group's one after another.
    """
    spans = [(o.start, o.duration) for o in operations if o.op == op and not o.small]
    if not spans or any(duration is None for _, duration in spans):
        return float("nan")
    if any(start is None for start, _ in spans):
        return sum(duration for _, duration in spans if duration is not None)
    return union_seconds([(s, d) for s, d in spans if s is not None and d is not None])


def alone(operations: Sequence[Operation]) -> list[Operation]:
    """The timed operations whose span no other span overlaps; all timed ones, where starts are unknown."""
    timed = [o for o in operations if o.duration is not None]
    if any(o.start is None for o in timed):
        return timed
    spans = sorted(((o.start or 0.0, (o.start or 0.0) + (o.duration or 0.0), o) for o in timed), key=lambda s: s[:2])
    undisturbed, reached = [], float("-inf")
    for index, (start, end, operation) in enumerate(spans):
        follows = spans[index + 1][0] if index + 1 < len(spans) else float("inf")
        if start >= reached and follows >= end:
            undisturbed.append(operation)
        reached = max(reached, end)
    return undisturbed


class StepOperations:
    """A sampled step's operations as a row of numbers that ranks can gather, and back.

    Groups of one rank exchange nothing and are left out.
    """

    def __init__(self, step: int, operations: Sequence[Operation], partial: bool) -> None:
        self.step = step
        self.operations = [o for o in operations if o.group_size > 1]
        self.counts = Counter(o.key for o in self.operations)
        self.classes: list[Class] = sorted(self.counts)[:CLASSES]
        self.partial = partial or len(self.counts) > CLASSES

    def row(self) -> Tensor:
        """Seconds by operation and median duration by class, NaN where there is none; partial or not; a hash of step
        and classes."""
        durations: dict[Class, list[float]] = {key: [] for key in self.counts}
        for operation in alone(self.operations):
            durations[operation.key].append(operation.duration or 0.0)
        values = [step_seconds(self.operations, op) for op in OPERATIONS]
        values += [median(durations[key]) if durations[key] else float("nan") for key in self.classes]
        values += [float("nan")] * (CLASSES - len(self.classes))
        values += [float(self.partial), float(zlib.crc32(repr((self.step, self.classes)).encode()))]
        return torch.tensor(values, dtype=torch.float64)

    def record(self, rows: Tensor, source: str) -> dict[str, Any]:
        """The `collectives` record from the rows of all ranks [ranks, n]: medians over ranks.

        It is partial where that of any rank is, or where ranks saw different operations; then its numbers are this
        rank's own.
        """
        agree = bool((rows[:, -1] == rows[0, -1]).all())
        # torch's nanmedian is the lower one of two
        middle = (rows if agree else rows[:1]).nanquantile(0.5, dim=0).tolist()
        known = [None if value != value else value for value in middle]
        listed = []
        for index, (op, group, size, count_bytes) in enumerate(self.classes):
            duration = known[len(OPERATIONS) + index]
            listed.append(
                {
                    "op": op,
                    "group": group,
                    "group_size": size,
                    "bytes": count_bytes,
                    "count": self.counts[op, group, size, count_bytes],
                    "small": count_bytes < SMALL_BYTES,
                    "duration_s": duration,
                    "busbw": None if duration is None else busbw(op, count_bytes, duration, size),
                }
            )
        return {
            "step": self.step,
            "source": source,
            "partial": bool(rows[:, -2].any()) or not agree,
            "seconds": dict(zip(OPERATIONS, known, strict=False)),
            "operations": listed,
        }
