"""What 95 % intervals promise: 1,000 studies whose truth is known, each analysed as a real one is."""

import math

import numpy as np
import pytest
from made_rows import made_row

from harness.analysis.breakdown import breakdowns
from harness.analysis.efficiency import curves
from harness.analysis.intervals import pooled, significance, student, welch, within

DRAWS = 1000
BETWEEN, WITHIN, STEPS = 0.01, 0.08, 50
"""Relative spread of repeats, of a run's steps, and how many steps a run has."""

CLEAN, WAIT, WAIT_SPREAD = 0.1, 0.02, 0.002
"""Seconds of a step on one rank; what each step waits beside that on four, and how much repeats differ in it."""


def study(random: np.random.Generator, repeats: int) -> list[dict]:
    """One rank computes all of a step; four wait as well. A run has a speed of its own, and each of its steps."""
    rows = []
    for gpus, wait, spread in ((1, 0.0, 0.0), (4, WAIT, WAIT_SPREAD)):
        for repeat in range(repeats):
            waited = wait + spread * random.standard_normal()
            own = CLEAN * math.exp(BETWEEN * random.standard_normal())
            step = float(((own + waited) * (1 + WITHIN * random.standard_normal(STEPS))).mean())
            parts = {"transfer": 0.0, "wait": waited, "bubble": 0.0, "data": 0.0, "compute": own, "other": 0.0}
            rows.append(made_row(gpus, repeat, step, parts))
    return rows


@pytest.mark.parametrize("repeats", [3, 5])
def test_intervals_hold_the_truth_and_are_not_much_wider_than_the_oracles(repeats):
    """The oracle knows the spreads. Its interval of an efficiency is the normal one, 1.96 standard errors; that of a
    part is Student's with the true standard error, since one rank's waiting is zero, of which nothing is learnt."""
    random = np.random.default_rng(7)
    kept, waits = [], []
    for _ in range(DRAWS):
        rows = study(random, repeats)
        found = curves(rows)
        kept.append(found[0].largest.efficiency)
        waits.append(next(part.lost_s for part in breakdowns(rows, found)[1].parts if part.name == "wait"))
    truth = CLEAN / (CLEAN + WAIT)
    assert 0.92 <= covered(kept, truth) <= 0.98
    assert 0.92 <= covered(waits, WAIT) <= 0.98
    steps = WITHIN / math.sqrt(STEPS)
    spreads = (math.hypot(BETWEEN, steps), math.hypot(BETWEEN * truth, WAIT_SPREAD / (CLEAN + WAIT), steps))
    normal = 1.96 * math.hypot(*spreads) / math.sqrt(repeats)
    assert np.mean([math.log(one.hi / one.lo) / 2 for one in kept]) <= 1.5 * normal
    oracle = student(repeats - 1) * WAIT_SPREAD / math.sqrt(repeats)
    assert np.mean([(one.hi - one.lo) / 2 for one in waits]) <= 1.5 * oracle


@pytest.mark.parametrize("repeats", [3, 5])
def test_a_scale_that_is_twice_as_unsteady_costs_little_coverage(repeats):
    random = np.random.default_rng(3)
    kept = []
    for _ in range(DRAWS):
        drawn = ((gpus, repeat, spread) for gpus, spread in ((1, 0.01), (4, 0.02)) for repeat in range(repeats))
        rows = [made_row(gpus, repeat, math.exp(random.normal(0, spread))) for gpus, repeat, spread in drawn]
        kept.append(curves(rows)[0].largest.efficiency)
    assert 0.92 <= covered(kept, 1.0) <= 0.96


def covered(found, truth):
    return np.mean([one.lo <= truth <= one.hi for one in found])


@pytest.mark.parametrize(
    ("freedom", "table"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (10, 2.22814), (120, 1.97993), (1e6, 1.95997)],
)
def test_students_t_is_that_of_the_tables(freedom, table):
    assert student(freedom) == pytest.approx(table, rel=1e-5)
    assert significance(table, 1, freedom) == pytest.approx(0.05, rel=1e-4)


@pytest.mark.parametrize(("t", "freedom"), [(1.0, 1), (2.5, 1), (1.5, 2), (4.0, 2)])
def test_students_t_of_one_and_two_degrees_of_freedom_has_a_formula(t, freedom):
    exact = 2 * math.atan(t) / math.pi if freedom == 1 else t / math.sqrt(2 + t**2)
    assert within(t, freedom) == pytest.approx(exact, rel=1e-12)


def test_welch_and_pooled_agree_where_both_sides_are_alike():
    """Two means of three with a standard error of 1: √2, four degrees of freedom."""
    assert welch((1.0, 2), (1.0, 2)) == pytest.approx((math.sqrt(2), 4))
    assert pooled((1.0, 2), (1.0, 2)) == pytest.approx((math.sqrt(2), 4))
    assert welch((1.0, 2), (0.0, 2)) == pytest.approx((1, 2)), "one side that is known adds nothing"
    assert welch((0.0, 2), (0.0, 2)) == (0, 4)
    assert all(welch((error, 1), (0.0, 1))[1] >= 1 for error in np.random.default_rng(0).random(1000))
