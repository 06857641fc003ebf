"""Points that stand out among the repeats of their scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.efficiency import Curve
from harness.analysis.intervals import LEVEL, significance
from harness.analysis.summary import Row

MATTERS = 0.01
"""Of its tokens/s that a point must be off the other repeats."""
FEWEST = 3
"""Repeats below which nobody can tell which of them is off."""


@dataclass(frozen=True)
class Outlier:
    """A point whose tokens/s are off the mean of its scale's other repeats by `deviation`, a share.

    p: how likely chance alone makes one of all tested points stand out as much.
    """

    slug: str
    label: str
    repeat: int
    repeats: int
    deviation: float
    p: float


def outliers(rows: Sequence[Row], curves: Sequence[Curve]) -> list[Outlier]:
    """By externally studentised residuals of log tokens/s (Cook and Weisberg 1982, 2.2), Bonferroni over the points.

    Repeats are taken to differ by one relative spread at all scales, since those of one scale are too few to tell it.
    """
    by_slug = {row["slug"]: row for row in rows}
    scales = [[by_slug[slug] for slug in scale.slugs] for curve in curves for scale in curve.scales]
    scales = [repeats for repeats in scales if len(repeats) > 1]
    logs = [[math.log(row["tokens_per_s"]) for row in repeats] for repeats in scales]
    means = [sum(values) / len(values) for values in logs]
    squares = sum((value - mean) ** 2 for values, mean in zip(logs, means, strict=True) for value in values)
    freedom = sum(len(values) - 1 for values in logs) - 1
    tested = sum(len(values) for values in logs if len(values) >= FEWEST)
    found = []
    for repeats, values, mean in zip(scales, logs, means, strict=True):
        count = len(values)
        if count < FEWEST:
            continue
        for row, value in zip(repeats, values, strict=True):
            residual, kept = value - mean, 1 - 1 / count
            left = max(0.0, squares - residual**2 / kept) / freedom
            deviation = math.expm1(residual / kept)
            p = min(1.0, tested * significance(residual, math.sqrt(left * kept), freedom))
            if p < LEVEL and abs(deviation) >= MATTERS:
                found.append(Outlier(row["slug"], row["label"], row["repeat"], count, deviation, p))
    return found
