"""Collective operations of one step: what one rank saw, and what all ranks say together."""

import zlib
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
    """The timed operations whose span no other span overlaps; all, where starts are unknown."""
    timed = [o for o in operations if o.duration is not None]

    def overlaps(a: Operation, b: Operation) -> bool:
        if a.start is None or b.start is None or a.duration is None or b.duration is None:
            return False
        return a.start < b.start + b.duration and b.start < a.start + a.duration

    return [a for a in timed if not any(a is not b and overlaps(a, b) for b in timed)]


class StepOperations:
    """A sampled step's operations as a row of numbers that ranks can gather, and back.

    Groups of one rank exchange nothing and are left out.
    """

    def __init__(self, step: int, operations: Sequence[Operation], partial: bool) -> None:
        self.step, self.partial = step, partial
        self.operations = [o for o in operations if o.group_size > 1]
        self.classes: list[Class] = sorted({o.key for o in self.operations})[:CLASSES]

    def row(self) -> Tensor:
        """Seconds by operation, median duration by class, a hash of step and classes: NaN where there is none."""
        undisturbed = alone(self.operations)
        values = [step_seconds(self.operations, op) for op in OPERATIONS]
        for key in self.classes:
            durations = [o.duration for o in undisturbed if o.key == key and o.duration is not None]
            values.append(median(durations) if durations else float("nan"))
        values += [float("nan")] * (CLASSES - len(self.classes))
        values.append(float(zlib.crc32(repr((self.step, self.classes)).encode())))
        return torch.tensor(values, dtype=torch.float64)

    def record(self, rows: Tensor, source: str) -> dict[str, Any]:
        """The `collectives` record from the rows of all ranks [ranks, n]: medians over ranks.

        Where ranks saw different operations the record is partial and its numbers are this rank's own.
        """
        agree = bool((rows[:, -1] == rows[0, -1]).all())
        middle = (rows if agree else rows[:1]).nanmedian(dim=0).values.tolist()
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
                    "count": sum(o.key == (op, group, size, count_bytes) for o in self.operations),
                    "small": count_bytes < SMALL_BYTES,
                    "duration_s": duration,
                    "busbw": None if duration is None else busbw(op, count_bytes, duration, size),
                }
            )
        return {
            "step": self.step,
            "source": source,
            "partial": self.partial or not agree,
            "seconds": dict(zip(OPERATIONS, known, strict=False)),
            "operations": listed,
        }
