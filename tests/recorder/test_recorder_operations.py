"""What a step's collective operations come to, on timelines constructed with a known answer."""

import math
import time

import pytest
import torch

from harness.plan.busbw import busbw
from harness.recorder.operations import CLASSES, Operation, StepOperations, alone, busy_seconds, union_seconds

MIB = 1 << 20


def operation(op="all_reduce", start=0.0, duration=1.0, size=MIB, ranks=4, group="dp", **more):
    return Operation(op, group, ranks, size, start, duration, **more)


def gathered(*steps: StepOperations) -> torch.Tensor:
    return torch.stack([step.row() for step in steps])


def test_overlapping_spans_count_once():
    assert union_seconds([(0, 2), (1, 2), (5, 1), (5.2, 0.1)]) == pytest.approx(4)


def test_seconds_are_the_union_where_starts_are_known_and_the_sum_where_not():
    spans = [operation(start=0, duration=2), operation(start=1, duration=2)]
    assert busy_seconds(spans) == pytest.approx(3)
    assert busy_seconds([operation(start=None), operation(start=None)]) == pytest.approx(2)


def test_seconds_are_unknown_where_there_are_none_or_one_is_untimed():
    assert math.isnan(busy_seconds([]))
    assert math.isnan(busy_seconds([operation(start=None), operation(start=None, duration=None)]))
    step = StepOperations(3, [operation("all_gather")], partial=False)
    assert step.record(gathered(step), "profiler")["seconds"]["all_reduce"] is None


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


def test_an_operation_that_overlaps_on_one_rank_has_no_bus_bandwidth():
    """A rank that waits has the next bucket queued behind the first; on the one that comes last none overlaps."""
    waits = StepOperations(3, [operation(duration=27), operation(start=1, duration=27, size=2 * MIB)], partial=False)
    last = StepOperations(3, [operation(start=26), operation(start=27, size=2 * MIB)], partial=False)
    for record in (waits.record(gathered(waits, last), "profiler"), last.record(gathered(last, waits), "profiler")):
        assert [(o["duration_s"], o["busbw"]) for o in record["operations"]] == [(None, None)] * 2
        assert record["seconds"]["all_reduce"] == pytest.approx((28 + 2) / 2)


def test_a_kind_of_operation_is_told_whole_or_not_at_all():
    """Of those of equal size, the ones that overlap are the ones that wait."""
    spans = [operation(), operation(start=9, duration=8), operation(start=10, duration=8)]
    step = StepOperations(3, spans, partial=False)
    assert step.record(gathered(step), "profiler")["operations"][0]["duration_s"] is None


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


def test_numbers_are_of_the_ranks_that_saw_the_same():
    own, alike = (StepOperations(3, [operation(duration=d)], partial=False) for d in (1.0, 3.0))
    others = [
        StepOperations(3, [operation(size=2 * MIB, duration=90)], partial=True),
        StepOperations(3, [operation(duration=90), operation(start=200, duration=90)], partial=False),
        StepOperations(4, [operation(duration=90)], partial=False),
        StepOperations(3, [], partial=False),
    ]
    record = own.record(gathered(own, alike, *others), "flight_recorder")
    assert record["seconds"]["all_reduce"] == pytest.approx(2)
    assert record["ranks"] == 2
    assert not record["partial"]


def test_the_traffic_of_groups_is_told_apart():
    """And of each, operations of 64 KiB and more from the small ones."""
    step = StepOperations(
        3,
        [
            operation("all_gather", start=0, group="dp"),
            operation("all_gather", start=2, group="dp", size=3 * MIB),
            operation("all_gather", start=1.5, group="tp"),
            operation("all_reduce", start=5, group="tp", size=8),
        ],
        partial=False,
    )
    record = step.record(gathered(step), "profiler")
    assert record["groups"] == {
        "dp": {"all_gather": {"seconds": 2, "bytes": 4 * MIB, "count": 2, "small_bytes": 0}},
        "tp": {
            "all_gather": {"seconds": 1, "bytes": MIB, "count": 1, "small_bytes": 0},
            "all_reduce": {"seconds": None, "bytes": 0, "count": 0, "small_bytes": 8},
        },
    }
    assert record["seconds"]["all_gather"] == pytest.approx(2.5), "over all groups, what overlaps once"


def exchange(*sizes, counts=32):
    tokens = [operation("all_to_all", 2.0 * i, size=size, uneven=True) for i, size in enumerate(sizes)]
    return StepOperations(3, [operation("all_to_all", 99.0, size=counts), *tokens], partial=False)


def test_uneven_exchanges_are_one_class_with_the_mean_of_their_bytes():
    """Over its operations and over the ranks, which agree although no two of their sizes are equal."""
    own = exchange(1 * MIB, 2 * MIB)
    record = own.record(gathered(own, exchange(4 * MIB, 5 * MIB)), "flight_recorder")
    assert [(o["bytes"], o["count"], o["small"]) for o in record["operations"]] == [(3 * MIB, 2, False), (32, 1, True)]
    assert record["groups"]["dp"]["all_to_all"] == {"seconds": 2, "bytes": 6 * MIB, "count": 2, "small_bytes": 32}
    assert [o["busbw"] is None for o in record["operations"]] == [True, False], "what stays on a rank is not known"
    assert record["ranks"] == 2


def test_a_batch_has_a_time_but_its_operations_have_none():
    step = StepOperations(
        3,
        [
            operation("send_recv", None, 0.5, batched=True),
            operation("send_recv", None, 0.0, batched=True),
            operation("send_recv", None, 0.25, size=2 * MIB),
        ],
        partial=False,
    )
    record = step.record(gathered(step), "flight_recorder")
    assert record["seconds"]["send_recv"] == pytest.approx(0.75)
    assert [(o["bytes"], o["duration_s"]) for o in record["operations"]] == [(MIB, None), (2 * MIB, 0.25)]


def test_a_group_of_one_exchanges_nothing():
    step = StepOperations(3, [operation(ranks=1)], partial=False)
    record = step.record(gathered(step), "profiler")
    assert record["operations"] == []
    assert record["seconds"]["all_reduce"] is None


def test_rows_have_one_length_however_many_kinds_of_operation_there_are():
    """Those with the fewest bytes are not told one by one, but still count in their group's traffic."""
    many = StepOperations(3, [operation(size=MIB + i, start=2.0 * i) for i in range(CLASSES + 8)], partial=False)
    few = StepOperations(3, [operation()], partial=False)
    assert many.row().shape == few.row().shape
    record = many.record(gathered(many, few), "profiler")
    assert record["partial"]
    assert [o["bytes"] for o in record["operations"]] == [MIB + i for i in range(8, CLASSES + 8)]
    assert record["groups"]["dp"]["all_reduce"]["bytes"] == sum(MIB + i for i in range(CLASSES + 8))
    assert not few.partial


def test_a_step_of_thousands_of_operations_is_read_in_a_moment():
    begin = time.perf_counter()
    StepOperations(3, [operation(start=2.0 * i) for i in range(5000)], partial=False).row()
    assert time.perf_counter() - begin < 1
