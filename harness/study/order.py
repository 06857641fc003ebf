"""The order in which points run: repeats in rounds, shuffled within each, so that drift does not pose as scaling."""

import random

from harness.study.point import Point


def ordered(points: list[Point], seed: int) -> list[Point]:
    """The points, all first repeats before all second ones, each round shuffled by the seed."""
    chance = random.Random(seed)
    last = max(point.config.repeat for point in points)
    rounds = ([point for point in points if point.config.repeat == repeat] for repeat in range(last + 1))
    return [point for members in rounds for point in chance.sample(members, len(members))]
