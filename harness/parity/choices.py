"""What tells points of one name apart, where a check sweeps over more than their names say."""

from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from harness.fields import walk
from harness.study.point import Point


def choices(points: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """By slug, the keys and values in which a point differs from others whose slugs differ in their hash alone."""
    alike: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        alike[point.slug.rpartition("-")[0]].append(point)
    chosen: dict[str, dict[str, Any]] = {}
    for those in alike.values():
        for key, value in ((key, attrgetter(key)) for key, _ in walk()):
            if any(value(point.config) != value(those[0].config) for point in those):
                for point in those:
                    chosen.setdefault(point.slug, {})[key] = value(point.config)
    return chosen
