"""Collective operations of one step: what one rank saw, and what the ranks that saw the same say together."""

import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from statistics import median
from typing import Any

import torch
from torch import Tensor

from harness.plan.busbw import FACTORS, busbw
from harness.plan.collectives import SMALL_BYTES
from harness.recorder.timeline import Timeline

OPERATIONS = tuple(FACTORS)
CLASSES = 64
"""Kinds of operation (op, group, size, bytes) of a step that are told one by one."""

PAIRS = 48
"""Pairs of group and operation that are told."""

UNEVEN = -1
"""In place of the bytes of operations that have another size every time."""

LENGTHS = (len(OPERATIONS), CLASSES, CLASSES, PAIRS, PAIRS, PAIRS, 2)
"""Of the parts of a row: seconds by operation; duration and bytes by class; seconds, bytes and small ones' bytes by
group and operation; whether it is partial, and a hash of what it tells of."""

Class = tuple[str, str, int, int]


@dataclass(frozen=True)
class Operation:
    """One collective on one rank: bytes by nccl-tests' convention, start and duration in seconds or None.

    uneven: an all-to-all of which each rank and call has another size. batched: the duration is not its own; the
    first operation of a batch has that of all, the others none.
    """

    op: str
    group: str
    group_size: int
    bytes: int
    start: float | None
    duration: float | None
    uneven: bool = False
    batched: bool = False

    @property
    def key(self) -> Class:
        return self.op, self.group, self.group_size, UNEVEN if self.uneven else self.bytes

    @property
    def small(self) -> bool:
        """Whether it carries control values; uneven ones never do."""
        return self.bytes < SMALL_BYTES and not self.uneven


def union_seconds(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds covered by at least one of the (start, duration) spans."""
    covered, reached = 0.0, float("-inf")
    for start, duration in sorted(spans):
        end = start + duration
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def busy_seconds(operations: Sequence[Operation]) -> float:
    """Seconds in these operations; NaN where there are none or one is untimed.

    Spans that overlap count once, as gloo's asynchronous ones do; NCCL runs a group's one after another.
    """
    spans = [(o.start, o.duration) for o in operations]
    if not spans or any(duration is None for _, duration in spans):
        return nan
    if any(start is None for start, _ in spans):
        return sum(duration for _, duration in spans if duration is not None)
    return union_seconds([(s, d) for s, d in spans if s is not None and d is not None])


def alone(operations: Sequence[Operation]) -> list[Operation]:
    """The operations with a duration of their own whose span no other span overlaps; all of them, where starts are
    unknown."""
    timed = [o for o in operations if o.duration is not None and not o.batched]
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


def alone_seconds(operations: Sequence[Operation]) -> dict[Class, float]:
    """The median duration of each class of which no span overlaps another.

    A class is told whole or not at all: those that overlap are those that wait, so the others alone look too fast.
    """
    undisturbed = alone(operations)
    left_out = Counter(o.key for o in operations if o.duration is not None and not o.batched)
    left_out.subtract(o.key for o in undisturbed)
    durations: dict[Class, list[float]] = defaultdict(list)
    for operation in undisturbed:
        if not left_out[operation.key]:
            durations[operation.key].append(operation.duration or 0.0)
    return {key: median(found) for key, found in durations.items()}


class StepOperations:
    """A sampled step's operations as a row of numbers that ranks can gather, and back.

    Groups of one rank exchange nothing and are left out. Where there are more classes than a row holds, those with
    the fewest bytes are not told one by one.
    """

    def __init__(
        self,
        step: int,
        operations: Sequence[Operation],
        partial: bool,
        source: str = "profiler",
        timeline: Timeline | None = None,
    ) -> None:
        """timeline: of a step that a profiler's window was around."""
        self.step, self.source, self.timeline = step, source, timeline
        self.operations = [o for o in operations if o.group_size > 1]
        self.counts = Counter(o.key for o in self.operations)
        self.moved: Counter[Class] = Counter()
        for operation in self.operations:
            self.moved[operation.key] += operation.bytes
        self.large = [o for o in self.operations if not o.small]
        self.through: dict[tuple[str, str], list[Operation]] = {(o.group, o.op): [] for o in self.operations}
        for operation in self.large:
            self.through[operation.group, operation.op].append(operation)
        largest = sorted(self.counts, key=lambda key: (-self.moved[key], key))
        self.classes: list[Class] = sorted(largest[:CLASSES])
        self.pairs = sorted(self.through)[:PAIRS]
        self.partial = partial or len(self.counts) > CLASSES

    def row(self) -> Tensor:
        """The parts of LENGTHS, NaN where there is nothing to tell."""
        durations = alone_seconds(self.operations)
        large = [sum(o.bytes for o in self.through[pair]) for pair in self.pairs]
        whole = Counter[tuple[str, str]]()
        for (op, group, *_), size in self.moved.items():
            whole[group, op] += size
        told = self.step, [(key, self.counts[key]) for key in self.classes], self.pairs
        parts: tuple[Sequence[float], ...] = (
            [busy_seconds([o for o in self.large if o.op == op]) for op in OPERATIONS],
            [durations.get(key, nan) for key in self.classes],
            [self.moved[key] / self.counts[key] for key in self.classes],
            [busy_seconds(self.through[pair]) for pair in self.pairs],
            large,
            [whole[pair] - size for pair, size in zip(self.pairs, large, strict=True)],
            [float(self.partial), float(zlib.crc32(repr(told).encode()))],
        )
        padded = [value for part, length in zip(parts, LENGTHS, strict=True) for value in pad(part, length)]
        return torch.tensor(padded, dtype=torch.float64)

    def record(self, rows: Tensor, source: str) -> dict[str, Any]:
        """The `collectives` record from the rows of all ranks [ranks, n], the first of them this rank's own.

        Times are medians, and sizes of uneven operations means, over the ranks that saw the same operations as this
        one; partial where a window of theirs is. An operation has a duration where it has one on each of them: with
        gloo a rank that waits has the next ones queued behind it, while on the one that comes last none overlaps.
        """
        alike = rows[rows[:, -1] == rows[0, -1]]
        seconds, durations, sizes, busy, large, small, state = alike.split(LENGTHS, dim=1)
        by_class = zip(self.classes, mean(sizes), middle_of_all(durations), strict=False)
        by_pair = zip(self.pairs, middle(busy), mean(large), mean(small), strict=False)
        groups: dict[str, dict[str, Any]] = {group: {} for group, _ in self.pairs}
        for (group, op), time, size, rest in by_pair:
            count = len(self.through[group, op])
            groups[group][op] = {"seconds": time, "bytes": size, "count": count, "small_bytes": rest}
        return {
            "step": self.step,
            "source": source,
            "partial": bool(state[:, 0].any()),
            "ranks": len(alike),
            "seconds": dict(zip(OPERATIONS, middle(seconds), strict=True)),
            "groups": groups,
            "operations": [self.described(key, size, time) for key, size, time in by_class],
        }

    def described(self, key: Class, size: int, duration: float | None) -> dict[str, Any]:
        """A class in the record."""
        op, group, group_size, known = key
        return {
            "op": op,
            "group": group,
            "group_size": group_size,
            "bytes": size,
            "count": self.counts[key],
            "small": size < SMALL_BYTES and known != UNEVEN,
            "duration_s": duration,
            # of an uneven exchange is not told what stays on the rank
            "busbw": busbw(op, size, duration, group_size) if duration and known != UNEVEN else None,
        }


def pad(values: Sequence[float], length: int) -> list[float]:
    """The values and NaN up to a length."""
    return [*values, *[nan] * (length - len(values))]


def mean(columns: Tensor) -> list[int]:
    """The mean of each column [ranks, n], up to the first that has none."""
    return [round(value) for value in columns.mean(0).tolist() if value == value]


def middle(columns: Tensor) -> list[float | None]:
    """The median of each column [ranks, n], None where there is none."""
    # torch's nanmedian is the lower one of two
    return [None if value != value else value for value in columns.nanquantile(0.5, dim=0).tolist()]


def middle_of_all(columns: Tensor) -> list[float | None]:
    """The median of each column [ranks, n], None where one of them has none."""
    return [None if value != value else value for value in columns.quantile(0.5, dim=0).tolist()]
