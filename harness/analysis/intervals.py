"""95 % intervals, and what they were taken over.

All of them are intervals of rates and of their ratios, which are positive. They are therefore taken on the log scale,
where a relative error is the same up and down: value · exp(±half).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
SEED = 0
# Student's t at 97.5 % where the expansion below is not yet good to 0.2 %: 1 to 4 degrees of freedom.
FEW = (12.7062, 4.3027, 3.1824, 2.7764)
# An interval that is wider than this share of its value says nothing about it.
TELLING = 0.5


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; `kind` is `repeats`, `within-run` or null where there is no interval."""

    value: float
    lo: float | None = None
    hi: float | None = None
    kind: str | None = None

    @property
    def half(self) -> float:
        """Half the interval's width on the log scale, which is a fraction of the value; 0 where there is none."""
        return 0.0 if self.lo is None or self.hi is None else math.log(self.hi / self.lo) / 2

    @property
    def tells(self) -> bool:
        """Whether there is an interval, and one so narrow that it says something about the value."""
        return self.lo is not None and self.hi is not None and self.hi - self.lo <= TELLING * self.value


def around(value: float, half: float, kind: str) -> Interval:
    """The interval of a positive value whose relative error is `half`."""
    # Beyond a factor of e³⁰ either way there is nothing to tell, and much beyond it no float.
    factor = math.exp(min(half, 30.0))
    return Interval(value, value / factor, value * factor, kind)


def student(freedom: int) -> float:
    """Student's t at 97.5 %, by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5)."""
    if freedom <= len(FEW):
        return FEW[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))


def over_repeats(values: Sequence[float]) -> Interval:
    """The mean of two or more repeats with its t-interval."""
    sample = np.asarray(values, dtype=float)
    half = student(len(sample) - 1) * float(sample.std(ddof=1)) / math.sqrt(len(sample))
    mean = float(sample.mean())
    return around(mean, half / mean, "repeats")


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
    length = max(1, min(round(1.25 * steps ** (1 / 3)), steps // 4))
    single = float(np.linalg.norm(amount - value * duration) / duration.sum())
    error = max(single, _bootstrap_error(amount, duration, length))
    freedom = steps - 1 if length == 1 else round(1.5 * steps / length) - 1
    half = student(freedom) * error * math.sqrt(steps / (steps - 1))
    return around(value, half / value, "within-run")


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
