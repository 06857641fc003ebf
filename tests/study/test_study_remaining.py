"""A point starts only where it can end before its allocation does."""

from dataclasses import dataclass
from typing import Any

import pytest

from harness.study.remaining import Remaining


@dataclass
class Left:
    """A launcher of which only the time left counts."""

    seconds: float | None

    def left_s(self) -> float | None:
        return self.seconds


@dataclass
class Possible:
    """A planned point of which only the expected time counts."""

    seconds: float | None

    @property
    def possible(self) -> "Possible":
        return self


def lacks(left: float | None, expected: float | None, *earlier: float, planned: float | None = None) -> str | None:
    """Whether a point may start after others, each planned to take `planned`, that took `earlier` seconds."""
    launcher: Any = Left(left)
    before: Any = Possible(planned)
    point: Any = Possible(expected)
    remaining = Remaining(launcher)
    for seconds in earlier:
        remaining.took(before, seconds)
    return remaining.lacks(point)


@pytest.mark.parametrize(
    ("left", "expected", "earlier"),
    [(None, 1e9, ()), (100.0, 99.0, ()), (100.0, None, ()), (100.0, None, (40.0, 90.0))],
)
def test_a_point_that_fits_starts(left: float | None, expected: float | None, earlier: tuple[float, ...]) -> None:
    assert lacks(left, expected, *earlier) is None


def test_a_point_that_is_planned_to_take_longer_does_not() -> None:
    assert lacks(100.0, 120.0) == "takes about 120 s, and the allocation has 100 s left"


def test_one_that_nobody_can_plan_takes_as_long_as_the_longest_so_far() -> None:
    assert lacks(100.0, None, 110.0, 20.0) == "takes about 110 s, and the allocation has 100 s left"


def test_a_start_takes_as_long_beside_the_plan_as_it_has_before() -> None:
    assert lacks(100.0, 90.0, 25.0, 20.0, planned=20.0) is None
    assert lacks(100.0, 90.0, 35.0, 20.0, planned=20.0) == "takes about 105 s, and the allocation has 100 s left"
