"""95 % intervals, and what they were taken over.

Rates and their ratios are positive. Their intervals are therefore taken on the log scale, where a relative error is the
same up and down: value · exp(±half). Differences have either sign: value ± half.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
SEED = 0
LEVEL = 0.05
"""p below which a difference is significant."""
# An interval that is wider than this share of its value says nothing about it.
TELLING = 0.5
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; `kind` is `repeats`, `within-run` or null where there is no interval.

    `freedom`: the degrees of freedom behind its t-interval.
    """

    value: float
    lo: float | None = None
    hi: float | None = None
    kind: str | None = None
    freedom: float | None = None

    @property
    def half(self) -> float:
        """Half the interval's width on the log scale, which is a fraction of the value; 0 where there is none."""
        return 0.0 if self.lo is None or self.hi is None else math.log(self.hi / self.lo) / 2

    def excludes(self, value: float) -> bool:
        """Whether there is an interval, and the value outside it."""
        return self.lo is not None and self.hi is not None and not self.lo <= value <= self.hi

    @property
    def tells(self) -> bool:
        """Whether there is an interval, and one so narrow that it says something about the value."""
        return self.lo is not None and self.hi is not None and self.hi - self.lo <= TELLING * self.value


def around(value: float, half: float, kind: str, freedom: float) -> Interval:
    """The interval of a positive value whose relative error is `half`."""
    # Beyond a factor of e³⁰ either way there is nothing to tell, and much beyond it no float.
    factor = math.exp(min(half, 30.0))
    return Interval(value, value / factor, value * factor, kind, freedom)


def ratio(part: Interval, base: Interval) -> Interval:
    """One rate over another; without an interval where one of them has none.

    Over repeats of both it is Student's two-sample interval, which takes the relative spread of the two for the same:
    with as many repeats of each it holds 94 % of truths where one spread is twice the other's, and is much narrower
    than what three repeats would give each spread of its own. Else each has its own spread.
    """
    value = part.value / base.value
    if part.freedom is None or base.freedom is None:
        return Interval(value)
    ours = part.half / student(part.freedom), part.freedom
    theirs = base.half / student(base.freedom), base.freedom
    repeats = part.kind == base.kind == "repeats"
    error, freedom = pooled(ours, theirs) if repeats else welch(ours, theirs)
    return around(value, student(freedom) * error, "repeats" if repeats else "within-run", freedom)


def pooled(*means: tuple[float, float]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a difference of means of one spread, from those of both."""
    freedom = sum(own for _, own in means)
    spread = sum(error**2 * (own + 1) * own for error, own in means) / freedom
    return math.sqrt(spread * sum(1 / (own + 1) for _, own in means)), freedom


def difference(ours: Sequence[float], theirs: Sequence[float], factor: float = 1.0) -> Interval:
    """The mean of repeats less `factor` times the mean of others', by Welch; no interval without two of each."""
    sides = [np.asarray(ours, dtype=float), factor * np.asarray(theirs, dtype=float)]
    value = float(sides[0].mean() - sides[1].mean())
    if min(map(len, sides)) < 2:
        return Interval(value)
    error, freedom = welch(*((float(side.std(ddof=1)) / math.sqrt(len(side)), len(side) - 1) for side in sides))
    half = student(freedom) * error
    return Interval(value, value - half, value + half, "repeats", freedom)


def welch(*means: tuple[float, float]) -> tuple[float, float]:
    """The same of means that each have a spread of their own (Welch 1947)."""
    variance = sum(error**2 for error, _ in means)
    if not variance:
        return 0.0, sum(own for _, own in means)
    freedom = variance**2 / sum(error**4 / own for error, own in means)
    # never below the lesser of the two, but for what floats round off
    return math.sqrt(variance), max(freedom, min(own for _, own in means))


def within(t: float, freedom: float) -> float:
    """How likely Student's t lies within ±t.

    t = √freedom · tan θ turns its density into a power of cos θ (Abramowitz and Stegun 26.7), smooth enough for Gauss's
    quadrature at any degree of freedom from 1 on.
    """
    end = math.atan(t / math.sqrt(freedom))
    powers = np.cos(end * (NODES + 1) / 2) ** (freedom - 1)
    return min(1.0, _density(freedom) * math.sqrt(freedom) * end * float(WEIGHTS @ powers))


@functools.lru_cache(4096)
def student(freedom: float) -> float:
    """Student's t at 97.5 %: within ± of it lie 95 %."""
    # Newton's method comes from below and never passes, for the density only falls; t is 1.96 or more
    t = 1.95
    while (short := 0.95 - within(t, freedom)) > 1e-11:
        t += short / (2 * _density(freedom) * (1 + t**2 / freedom) ** (-(freedom + 1) / 2))
    return t


def _density(freedom: float) -> float:
    """Of Student's t at 0."""
    return math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi * freedom)


def significance(difference: float, error: float, freedom: float) -> float:
    """How likely chance alone makes a difference as large as this, of either sign: the t-test's p."""
    return 1 - within(abs(difference) / error, freedom) if error else float(not difference)


def over_repeats(values: Sequence[float]) -> Interval:
    """The mean of two or more repeats with its t-interval."""
    sample = np.asarray(values, dtype=float)
    freedom = len(sample) - 1
    half = student(freedom) * float(sample.std(ddof=1)) / math.sqrt(len(sample))
    mean = float(sample.mean())
    return around(mean, half / mean, "repeats", freedom)


def within_run(tokens: Sequence[float], seconds: Sequence[float]) -> Interval:
    """Tokens per second of a window of steps with a moving-block bootstrap interval.

    Blocks of consecutive steps keep slow phases together; they wrap around, so that each step weighs the same
    (Politis and Romano 1992). The interval is the t-interval with the bootstrap's standard error; overlapping blocks
    are worth half as many degrees of freedom again as disjoint ones (Künsch 1989). The error of independent steps is
    its floor: steps that alternate would else seem free of noise.
    """
    amount, duration = np.asarray(tokens, dtype=float), np.asarray(seconds, dtype=float)
    steps = len(duration)
    value = float(amount.sum() / duration.sum())
    if steps < 2:
        return Interval(value)
    length = block(steps)
    single = float(np.linalg.norm(amount - value * duration) / duration.sum())
    error = max(single, _bootstrap_error(amount, duration, length))
    half = student(step_freedom(steps)) * error * math.sqrt(steps / (steps - 1))
    return around(value, half / value, "within-run", step_freedom(steps))


def block(steps: int) -> int:
    """Steps of a block."""
    return max(1, min(round(1.25 * steps ** (1 / 3)), steps // 4))


def step_freedom(steps: int) -> int:
    """Degrees of freedom of a window of two steps or more."""
    length = block(steps)
    return steps - 1 if length == 1 else round(1.5 * steps / length) - 1


def _bootstrap_error(amount: NDArray[np.float64], duration: NDArray[np.float64], length: int) -> float:
    """Standard error of Σamount ÷ Σduration over draws of blocks of `length` steps."""
    steps = len(duration)
    blocks = steps // length
    wrapped = np.arange(steps)[:, None] + np.arange(length)
    block_amount = amount[wrapped % steps].sum(axis=1)
    block_duration = duration[wrapped % steps].sum(axis=1)
    drawn = _draws(steps, blocks)
    # steps of as many tokens each, as nearly always, sum to the same in every draw
    alike = bool((block_amount == block_amount[0]).all())
    total = blocks * block_amount[0] if alike else block_amount[drawn].sum(axis=1)
    rates = total / block_duration[drawn].sum(axis=1)
    # Blocks cover blocks·length of the steps; the error shrinks with the root of what is covered.
    return float(rates.std() * math.sqrt(blocks * length / steps))


@functools.lru_cache(maxsize=8)
def _draws(steps: int, blocks: int) -> NDArray[np.int64]:
    """The first steps of drawn blocks [DRAWS, blocks]: the same for all windows of one length, as a study's are."""
    return np.random.default_rng(SEED).integers(steps, size=(DRAWS, blocks))
