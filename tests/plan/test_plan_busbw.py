import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_dirs import validator

from harness.config import OPERATIONS
from harness.plan.busbw import FACTORS, algbw, busbw, factor
from harness.report.figures.figure import COMMUNICATION

ranks = st.integers(2, 100_000)


@pytest.mark.parametrize(
    ("op", "at_8"),
    [
        ("all_reduce", 1.75),
        ("all_gather", 0.875),
        ("reduce_scatter", 0.875),
        ("all_to_all", 0.875),
        ("broadcast", 1.0),
        ("reduce", 1.0),
        ("send_recv", 1.0),
    ],
)
def test_factor_of_each_operation_among_eight_ranks(op: str, at_8: float) -> None:
    assert factor(op, 8) == at_8


def test_every_operation_of_the_records_has_a_factor_and_a_title() -> None:
    operations = validator().schema["$defs"]["operation"]["enum"]
    assert list(FACTORS) == operations
    assert COMMUNICATION.keys() == FACTORS.keys() >= set(OPERATIONS)


@given(ranks)
def test_an_all_reduce_costs_a_reduce_scatter_and_an_all_gather(n: int) -> None:
    assert factor("all_reduce", n) == pytest.approx(factor("reduce_scatter", n) + factor("all_gather", n))


@given(st.sampled_from(sorted(FACTORS)), st.integers(1, 2**40), st.floats(1e-6, 1e3), ranks)
def test_busbw_is_algbw_times_the_factor(op: str, size: int, seconds: float, n: int) -> None:
    assert busbw(op, size, seconds, n) == pytest.approx(algbw(size, seconds) * factor(op, n))


def test_a_known_measurement() -> None:
    assert busbw("all_reduce", 10**9, 0.01, 8) == pytest.approx(175e9)


@pytest.mark.parametrize("op", FACTORS)
def test_a_group_of_one_has_no_bus_bandwidth_rather_than_zero(op: str) -> None:
    assert busbw(op, 1024, 1.0, 1) is None


def test_an_unknown_operation_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match=r"op=all_reduced: .*did you mean 'all_reduce'"):
        factor("all_reduced", 8)


def test_no_bandwidth_without_time_or_ranks() -> None:
    with pytest.raises(ValueError, match="seconds=0"):
        algbw(1, 0)
    with pytest.raises(ValueError, match="n=0"):
        factor("broadcast", 0)
