"""Whether points ran faster or slower the later they ran."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.efficiency import Curve
from harness.analysis.intervals import LEVEL, Interval, around, significance, student
from harness.analysis.summary import Row

MATTERS = 0.01
"""Of its tokens/s that a study must have gained or lost from its first point to its last."""


@dataclass(frozen=True)
class Drift:
    """What tokens/s have become from the `first` to the `last` position in the order in which points began, as a ratio.

    p: how likely chance alone makes a slope as large; points: how many tell.
    """

    first: int
    last: int
    points: int
    change: Interval
    p: float

    @property
    def matters(self) -> bool:
        return self.p < LEVEL and abs(self.change.value - 1) >= MATTERS


def drift(rows: Sequence[Row], curves: Sequence[Curve]) -> Drift | None:
    """By least squares of log tokens/s over position, each scale with a level of its own: repeats alone can tell.

    None where repeats are too few to tell how well the line fits.
    """
    by_slug = {row["slug"]: row for row in rows}
    scales = [[by_slug[slug] for slug in scale.slugs] for curve in curves for scale in curve.scales]
    told = [
        [(float(row["position"]), math.log(row["tokens_per_s"])) for row in repeats if row["position"] is not None]
        for repeats in scales
    ]
    told = [pairs for pairs in told if len(pairs) > 1]
    centred = [pair for pairs in told for pair in _centred(pairs)]
    spread = sum(place**2 for place, _ in centred)
    freedom = len(centred) - len(told) - 1
    if freedom < 1 or not spread:
        return None
    slope = sum(place * speed for place, speed in centred) / spread
    squares = sum((speed - slope * place) ** 2 for place, speed in centred)
    error = math.sqrt(squares / freedom / spread)
    places = [int(place) for pairs in told for place, _ in pairs]
    length = max(places) - min(places)
    change = around(math.exp(slope * length), student(freedom) * error * length, "repeats", freedom)
    return Drift(min(places), max(places), len(centred), change, significance(slope, error, freedom))


def _centred(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    place, speed = (sum(values) / len(values) for values in zip(*pairs, strict=True))
    return [(position - place, value - speed) for position, value in pairs]
