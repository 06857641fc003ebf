"""A stretch of time cut into named pieces that sum to it."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple


class Span(NamedTuple):
    """A piece with stamps of its own, in seconds since the epoch."""

    start: float
    end: float
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
    edges = [begin]
    for time, _ in ground[1:]:
        edges.append(min(max(time, edges[-1]), end))
    pieces = [(first, last, name) for (first, last), (_, name) in zip(pairwise([*edges, end]), ground, strict=True)]

    def fill(first: float, last: float) -> None:
        for lo, hi, name in pieces:
            if (between := min(last, hi) - max(first, lo)) > 0:
                seconds[name] = seconds.get(name, 0.0) + between

    reached, overlap = begin, 0.0
    for span in sorted(spans):
        first, last = max(span.start, reached), min(span.end, end)
        overlap += span.end - span.start - max(0.0, last - first)
        if first > reached:
            fill(reached, min(first, end))
            reached = min(first, end)
        if last > first:
            seconds[span.name] = seconds.get(span.name, 0.0) + last - first
            reached = last
    fill(reached, end)
    return Tiles(seconds, overlap)
