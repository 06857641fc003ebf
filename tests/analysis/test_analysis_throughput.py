"""The measured window, its interval, MFU, and the sampled collectives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_dirs import EPOCH, MIB, make_attempt, make_collectives, make_config, make_ranks, tokens_per_step

from harness.analysis.collectives import collectives
from harness.analysis.intervals import over_repeats, student, within_run
from harness.analysis.throughput import throughput, utilisation
from harness.config import Precision

CONFIG = make_config(gpus=2)
TOKENS = tokens_per_step(CONFIG)


def test_the_window_holds_measured_steps_only():
    seconds = [9.0, 9.0, 0.1, 0.2, 0.3, 0.2]
    _, events = make_attempt(CONFIG, seconds)
    window = throughput({0: events})
    assert window.steps == 4
    assert window.seconds == pytest.approx([0.1, 0.2, 0.3, 0.2])
    assert window.tokens_per_s.value == pytest.approx(4 * TOKENS / 0.8)
    assert window.p50 == pytest.approx(0.2)
    assert window.p95 == pytest.approx(0.285)
    assert window.mad == pytest.approx(0.05)


def test_a_step_lasts_as_long_as_on_its_slowest_rank():
    _, events = make_attempt(CONFIG, [0.1] * 6)
    events.append(make_ranks(4, [0.4, 0.2], window_s=0.6))
    assert throughput({0: events}).seconds == pytest.approx([0.4, 0.2, 0.1, 0.1])


def test_the_window_is_that_of_the_slowest_rank_not_of_each_steps_slowest():
    """Two ranks take turns: 0.1 and 0.3 s, each 0.8 s in all. The maxima would say 1.2 s."""
    _, events = make_attempt(CONFIG, [0.1, 0.1, 0.1, 0.3, 0.1, 0.3])
    events.append(make_ranks(4, [0.3] * 4, window_s=0.8))
    window = throughput({0: events})
    assert window.window_s == pytest.approx(0.8)
    assert window.tokens_per_s.value == pytest.approx(4 * TOKENS / 0.8)


def test_a_rank_that_is_slower_throughout_sets_the_window():
    _, events = make_attempt(CONFIG, [0.1] * 6)
    events.append(make_ranks(4, [0.15] * 4, window_s=0.6))
    assert throughput({0: events}).tokens_per_s.value == pytest.approx(4 * TOKENS / 0.6)


def test_steps_of_an_earlier_attempt_take_its_own_ranks():
    """Steps 4 to 7 at 0.1 s; steps 6 on run again at 0.2 s. The first attempt's slowest rank is of its steps alone."""
    _, lost = make_attempt(CONFIG, [0.1] * 6, ended=False)
    lost.append(make_ranks(4, [0.3] * 4, window_s=1.2))
    _, again = make_attempt(CONFIG, [0.2] * 2, number=1, first_step=6)
    assert throughput({0: lost, 1: again}).seconds == pytest.approx([0.3, 0.3, 0.2, 0.2])


def test_no_measured_step_no_window():
    assert throughput({}) is None
    assert throughput({0: make_attempt(CONFIG, [0.1, 0.1])[1]}) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=60).filter(lambda steps: max(steps) > 1.001 * min(steps)))
def test_the_interval_is_strict_whenever_durations_vary(seconds):
    rate = within_run([100] * len(seconds), seconds)
    assert rate.lo < rate.value < rate.hi
    assert rate.kind == "within-run"


def test_alternating_steps_do_not_seem_free_of_noise():
    rate = within_run([100] * 40, [0.1, 0.2] * 20)
    assert rate.lo < rate.value < rate.hi


def test_one_step_has_no_interval():
    rate = within_run([100], [0.1])
    assert (rate.lo, rate.hi, rate.kind) == (None, None, None)


@pytest.mark.parametrize("steps", [12, 40])
def test_coverage_and_width(steps):
    """Independent steps of a known mean: the interval holds the truth in 92 to 99 % of 600 draws, and is no wider
    than 1.5 times what knowing the spread would give."""
    random = np.random.default_rng(1)
    draws = [random.lognormal(-2, 0.2, steps) for _ in range(600)]
    truth = 100 / np.exp(-2 + 0.02)
    found = [within_run([100] * steps, seconds) for seconds in draws]
    covered = np.mean([rate.lo < truth < rate.hi for rate in found])
    oracle = 2 * 1.96 * np.std([rate.value for rate in found])
    assert 0.92 <= covered <= 0.99
    assert np.mean([rate.hi - rate.lo for rate in found]) < 1.5 * oracle


@pytest.mark.parametrize(("freedom", "table"), [(1, 12.706), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)])
def test_student(freedom, table):
    assert student(freedom) == pytest.approx(table, rel=2e-3)


def test_over_repeats():
    """1, 2, 3: mean 2, deviation 1, t(2) = 4.303; relative to the mean, up and down on the log scale."""
    mean = over_repeats([1.0, 2.0, 3.0])
    assert mean.hi / mean.value == pytest.approx(np.exp(4.303 / np.sqrt(3) / 2), rel=1e-3)
    assert mean.value / mean.lo == pytest.approx(mean.hi / mean.value)
    assert (mean.value, mean.kind) == (2.0, "repeats")


def test_mfu_is_flops_over_the_dense_peak():
    """989 TFLOP/s, H200 dense bf16."""
    config = make_config(precision=Precision("bf16", "bf16"))
    assert utilisation(1e9, 494_500.0, config, "NVIDIA H200") == pytest.approx(0.5)


def test_mfu_of_an_unknown_device_is_unknown():
    assert utilisation(1e9, 1000.0, CONFIG, None) is None
    assert utilisation(1e9, 1000.0, CONFIG, "A processor") is None


def test_collectives_leave_partial_windows_out():
    seconds = {"all_reduce": 9.0, "all_gather": None, "reduce_scatter": None}
    windows = [
        make_collectives(4, EPOCH),
        make_collectives(5, EPOCH, partial=True, seconds=seconds),
        make_collectives(6, EPOCH, seconds=seconds | {"all_reduce": 0.004}),
    ]
    found = collectives({0: windows})
    assert found.seconds["all_reduce"] == pytest.approx(0.003)
    assert found.seconds["all_gather"] is None
    assert (found.windows, found.partial) == (2, False)
    only_partial = collectives({0: windows[1:2]})
    assert (only_partial.seconds["all_reduce"], only_partial.partial) == (9.0, True)


def test_no_collectives_are_null():
    found = collectives({})
    assert (found.windows, found.partial, found.all_reduce_busbw) == (0, False, None)
    assert set(found.seconds.values()) == {None}


def test_busbw_weighs_bytes_and_leaves_small_operations_out():
    def operation(mib, busbw, small=False, op="all_reduce", count=1):
        size = {"op": op, "group": "0", "group_size": 2, "bytes": mib * MIB, "count": count}
        return size | {"small": small, "duration_s": None, "busbw": busbw}

    operations = [
        operation(1, 1e9),
        operation(4, 4e9, count=2),
        operation(2, 2e9),
        operation(100, 9e9, small=True),
        operation(100, 9e9, op="all_gather"),
        operation(100, None),
    ]
    assert collectives({0: [make_collectives(4, EPOCH, operations=operations)]}).all_reduce_busbw == 4e9
