"""What the recorder costs, from the steps of launches with it and without it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

from harness.analysis.intervals import student
from harness.plan.window import role


@dataclass(frozen=True)
class StepPace:
    """Seconds of one launch's step after the warm-up: outside sampled windows, with them, and as the plain mean."""

    outside: float
    whole: float
    mean: float


def pace(seconds: Sequence[float], warmup: int, sample_every: int, flush: int) -> StepPace:
    """The pace of a launch whose first step took seconds[0], from the end of the one before to its own.

    Outside: the median over stretches of `flush` steps, from one time that the recorder brings numbers together to
    the next, in which no window was opened or closed. Whole: the median over stretches from one sampled step to the
    next. Medians, since what else a machine does only adds; within a stretch all that the recorder does counts.
    """
    steps = len(seconds)

    def stretch(begin: int, length: int) -> float:
        return sum(seconds[begin : begin + length]) / length

    def quiet(begin: int) -> bool:
        return all(role(step, warmup, sample_every) != "sampled" for step in range(begin, begin + flush + 1))

    first = math.ceil(warmup / flush) * flush
    undisturbed = [stretch(begin, flush) for begin in range(first, steps - flush + 1, flush) if quiet(begin)]
    periods = [stretch(begin, sample_every) for begin in range(warmup, steps - sample_every + 1, sample_every)]
    return StepPace(median(undisturbed), median(periods), mean(seconds[warmup:]))


@dataclass(frozen=True)
class Share:
    """The share of a step by which `on` is slower than `off`, with its 95 % interval."""

    value: float
    lo: float
    hi: float


def share(pairs: Sequence[tuple[float, float]]) -> Share:
    """From two or more pairs of (off, on) seconds: the t-interval of the mean difference of their logarithms."""
    differences = [math.log(on / off) for off, on in pairs]
    middle = mean(differences)
    half = student(len(pairs) - 1) * stdev(differences) / math.sqrt(len(pairs))
    return Share(math.expm1(middle), math.expm1(middle - half), math.expm1(middle + half))
