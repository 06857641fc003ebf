"""What a step's collective operations come to, on timelines constructed with a known answer."""

import math
import time

import pytest
import torch

from harness.plan.busbw import busbw
from harness.recorder.operations import CLASSES, Operation, StepOperations, alone, step_seconds, union_seconds

MIB = 1 << 20


def operation(op="all_reduce", start=0.0, duration=1.0, size=MIB, ranks=4):
    return Operation(op, "dp", ranks, size, start, duration)


def gathered(*steps: StepOperations) -> torch.Tensor:
    return torch.stack([step.row() for step in steps])


def test_overlapping_spans_count_once():
    assert union_seconds([(0, 2), (1, 2), (5, 1), (5.2, 0.1)]) == pytest.approx(4)


def test_seconds_are_the_union_where_starts_are_known_and_the_sum_where_not():
    spans = [operation(start=0, duration=2), operation(start=1, duration=2)]
    assert step_seconds(spans, "all_reduce") == pytest.approx(3)
    assert step_seconds([operation(start=None), operation(start=None)], "all_reduce") == pytest.approx(2)


def test_seconds_are_unknown_where_there_are_none_or_one_is_untimed():
    assert math.isnan(step_seconds([], "all_reduce"))
    assert math.isnan(step_seconds([operation("all_gather")], "all_reduce"))
    assert math.isnan(step_seconds([operation(start=None), operation(start=None, duration=None)], "all_reduce"))


def test_small_operations_are_kept_apart():
    step = StepOperations(3, [operation(), operation(size=4, start=2, duration=9)], partial=False)
    record = step.record(gathered(step), "profiler")
    assert record["seconds"]["all_reduce"] == pytest.approx(1)
    assert [(o["bytes"], o["small"]) for o in record["operations"]] == [(4, True), (MIB, False)]


def test_only_undisturbed_spans_have_a_bus_bandwidth():
    first, second, third = operation(start=0), operation(start=0.5, size=2 * MIB), operation(start=9, size=4 * MIB)
    assert alone([first, second, third]) == [third]
    step = StepOperations(3, [first, second, third], partial=False)
    by_size = {o["bytes"]: o for o in step.record(gathered(step), "profiler")["operations"]}
    assert by_size[MIB]["busbw"] is None
    assert by_size[4 * MIB]["busbw"] == pytest.approx(busbw("all_reduce", 4 * MIB, 1.0, 4))


@pytest.mark.parametrize(("durations", "middle"), [((1.0, 2.0, 9.0), 2.0), ((1.0, 3.0), 2.0)])
def test_numbers_are_medians_over_ranks(durations, middle):
    ranks = [StepOperations(3, [operation(duration=d)], partial=False) for d in durations]
    record = ranks[0].record(gathered(*ranks), "flight_recorder")
    assert record["seconds"]["all_reduce"] == pytest.approx(middle)
    assert record["operations"][0]["duration_s"] == pytest.approx(middle)
    assert not record["partial"]


def test_a_partial_step_on_any_rank_makes_the_record_partial():
    whole, torn = (StepOperations(3, [operation()], partial=partial) for partial in (False, True))
    assert whole.record(gathered(whole, torn), "flight_recorder")["partial"]


def test_ranks_that_saw_different_operations_make_the_record_partial_and_own():
    own, other = (
        StepOperations(3, [operation()], False),
        StepOperations(3, [operation(size=2 * MIB, duration=7)], False),
    )
    record = own.record(gathered(own, other), "flight_recorder")
    assert record["partial"]
    assert record["seconds"]["all_reduce"] == pytest.approx(1)


def test_a_group_of_one_exchanges_nothing():
    step = StepOperations(3, [operation(ranks=1)], partial=False)
    record = step.record(gathered(step), "profiler")
    assert record["operations"] == []
    assert record["seconds"]["all_reduce"] is None


def test_rows_have_one_length_however_many_kinds_of_operation_there_are():
    many = StepOperations(3, [operation(size=MIB + i, start=2.0 * i) for i in range(CLASSES + 8)], partial=False)
    few = StepOperations(3, [operation()], partial=False)
    assert many.row().shape == few.row().shape
    assert many.partial
    assert not few.partial


def test_a_step_of_thousands_of_operations_is_read_in_a_moment():
    begin = time.perf_counter()
    StepOperations(3, [operation(start=2.0 * i) for i in range(5000)], partial=False).row()
    assert time.perf_counter() - begin < 1
