"""A stretch of time cut into named pieces that sum to it."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

RESOLUTION_S = 1e-6
"""Stamps that are closer mean the same moment: seconds since the epoch hold no more than 0.24 µs in a float."""


class Span(NamedTuple):
    """A piece with stamps of its own: seconds since the epoch, and how long it lasts."""

    start: float
    duration: float
    name: str


class Tiles(NamedTuple):
    """Seconds by name, and how many seconds spans have claimed twice or outside."""

    seconds: dict[str, float]
    overlap_s: float


def tile(begin: float, end: float, ground: Sequence[tuple[float, str]], spans: Iterable[Span]) -> Tiles:
    """Cut the time from `begin` to `end`: each moment belongs to the first span over it, else to the ground.

    `ground` names what lies between spans, each piece from its time to the next one's; the first begins at `begin`.
    """
    seconds: dict[str, float] = {}
    length = end - begin
    edges = [0.0]
    for time, _ in ground[1:]:
        edges.append(min(max(time - begin, edges[-1]), length))
    pieces = [(first, last, name) for (first, last), (_, name) in zip(pairwise([*edges, length]), ground, strict=True)]

    def fill(first: float, last: float) -> None:
        for lo, hi, name in pieces:
            if (between := min(last, hi) - max(first, lo)) > 0:
                seconds[name] = seconds.get(name, 0.0) + between

    reached, overlap, before = 0.0, 0.0, begin
    # comparisons in place of min and max: a point has as many spans as steps
    for start, duration, name in sorted(spans):
        first = reached if abs(start - before) < RESOLUTION_S else start - begin
        before = start + duration if start + duration > before else before
        last = first + duration if first + duration < length else length
        first = reached if first < reached else length if first > length else first
        taken = last - first if last > first else 0.0
        overlap += duration - taken
        if first > reached:
            fill(reached, first)
            reached = first
        if taken:
            seconds[name] = seconds.get(name, 0.0) + taken
            reached = last
    fill(reached, length)
    return Tiles(seconds, overlap)
