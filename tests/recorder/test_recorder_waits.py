"""Transfer and waiting apart, on operations with known durations on each rank."""

import math

import pytest
import torch

from harness.recorder.operations import Operation, StepOperations, busy_seconds
from harness.recorder.sample import Sample, Window
from harness.recorder.timeline import Timeline
from harness.recorder.waits import Share, Split, packed, seconds, split, synchronising, waited_for

MIB = 1 << 20
CAPACITY = 6


def operation(duration, op="all_reduce", start=None, size=MIB, group="dp", **more):
    return Operation(op, group, 2, size, start, duration, **more)


def joined(*ranks, group="dp"):
    """What each rank makes of its operations once its group has been asked."""
    rows = [packed(synchronising(mine, group), rank, CAPACITY) for rank, mine in enumerate(ranks)]
    smallest = [min(column) for column in zip(*rows, strict=True)]
    return [split(mine, {group: smallest}) for mine in ranks]


def told(found):
    return [share and (share.transfer, share.wait, share.last) for share in found.shares]


def test_the_shortest_time_is_transfer_and_its_rank_came_last():
    first, second = joined([operation(0.5), operation(0.25)], [operation(0.125), operation(0.5)])
    assert told(first) == [(0.125, 0.375, 1), (0.25, 0.0, 0)]
    assert told(second) == [(0.125, 0.0, 1), (0.25, 0.25, 0)]
    assert first.agreed and second.agreed


def test_sends_broadcasts_and_other_groups_are_not_split():
    mine = [operation(1.0, op="broadcast"), operation(1.0, op="send_recv"), operation(1.0, group="tp"), operation(1.0)]
    (found,) = joined(mine)
    assert told(found) == [None, None, None, (1.0, 0.0, 0)]


@pytest.mark.parametrize(
    "other",
    [
        [operation(1.0)],
        [operation(1.0), operation(1.0), operation(1.0)],
        [operation(1.0), operation(1.0, op="all_gather")],
        [operation(1.0), operation(1.0, size=2 * MIB)],
        [],
        [operation(1.0)] * (CAPACITY + 1),
    ],
    ids=["fewer", "more", "another operation", "another size", "none", "more than fit"],
)
def test_ranks_that_saw_different_operations_are_told_and_never_mixed(other):
    mine = [operation(1.0), operation(2.0)]
    for found in joined(mine, other, mine):
        assert not found.agreed
        assert not any(found.shares)


def test_ranks_that_all_saw_more_than_fits_do_not_agree():
    many = [operation(1.0)] * (CAPACITY + 1)
    assert [found.agreed for found in joined(many, many)] == [False, False]


def test_groups_in_which_nothing_happened_agree():
    assert [found.agreed for found in joined([], [])] == [True, True]


def test_tokens_have_another_size_on_every_rank():
    mine, other = ([operation(d, op="all_to_all", size=size)] for d, size in ((0.5, MIB), (0.25, 3 * MIB)))
    assert told(joined(mine, other)[0]) == [(0.25, 0.25, 1)]


@pytest.mark.parametrize("unknown", [operation(None), operation(0.0, batched=True)])
def test_an_operation_that_one_rank_has_no_time_of_is_split_nowhere(unknown):
    for found in joined([operation(1.0), operation(1.0)], [unknown, operation(0.5)]):
        assert found.agreed
        assert [share is None for share in found.shares] == [True, False]


def test_ranks_beyond_the_first_thousands_are_told_by_their_number():
    rows = [packed([operation(duration)], rank, 1) for rank, duration in ((3, 1.0), (79_999, 0.5))]
    smallest = [min(column) for column in zip(*rows, strict=True)]
    assert split([operation(1.0)], {"dp": smallest}).shares[0].last == 79_999


def test_transfer_and_waiting_sum_to_the_time_in_operations():
    """Two at once, as gloo's threads run them: both wait to 1.0, then transfer one after another."""
    mine = [operation(1.25, start=0.0), operation(1.5, start=0.0)]
    found, _ = joined(mine, [operation(0.25), operation(0.5)])
    transfer, wait = seconds(mine, found.shares)
    assert (transfer, wait) == pytest.approx((0.5, 1.0))
    assert transfer + wait == pytest.approx(busy_seconds(mine))
    assert waited_for(mine, found.shares) == [(1, pytest.approx(1.0))]


def test_without_starts_they_are_sums():
    mine = [operation(1.25), operation(1.5)]
    found, _ = joined(mine, [operation(0.25), operation(0.5)])
    assert seconds(mine, found.shares) == pytest.approx((0.75, 2.0))
    assert waited_for(mine, found.shares) == [(1, pytest.approx(2.0))]


def test_what_is_not_all_split_has_no_sum():
    assert all(map(math.isnan, seconds([], [])))
    assert all(map(math.isnan, seconds([operation(1.0)], [None])))


def last_of(*ranks, pipeline=False):
    """Who the `collectives` record says came last, where all operations are of groups of all these ranks."""
    found = [Split(list[Share | None]([None] * len(mine)), True) for mine in ranks]
    for group in {o.group for o in ranks[0]}:
        for whole, part in zip(found, joined(*ranks, group=group), strict=True):
            for index, share in enumerate(part.shares):
                whole.shares[index] = share or whole.shares[index]
    told = [StepOperations(3, mine, partial=False) for mine in ranks]
    samples = [Sample(rank, told[rank], found[rank], pipeline, None) for rank in range(len(ranks))]
    return samples[0].collectives(torch.stack([sample.row() for sample in samples]))["last"]


@pytest.mark.parametrize("ranks", [1, 2])
def test_on_one_rank_there_is_no_communication_to_be_exposed(ranks):
    """What it hands to collectives of its own goes nowhere; the rest of the step is told all the same."""
    mine = [Operation("all_reduce", "dp", ranks, MIB, 0.5, 0.25)]
    told = StepOperations(3, mine, False, timeline=Timeline("profiler", [(0, 500_000_000)], [], whole=True))
    share = [Share(0.25, 0.0, 0)] if ranks > 1 else []
    line = Sample(0, told, Split(share, True), False, Window(0, 1.0)).line()
    parts = (0.0, 0.25, 0.0) if ranks > 1 else (None, None, None)
    assert (line["overlapped_s"], line["exposed_transfer_s"], line["exposed_wait_s"]) == parts
    assert (line["compute_s"], line["idle_s"]) == (0.5, 0.5 if ranks == 1 else 0.25)


def test_who_came_last_in_most_is_named_and_nobody_where_several_did():
    slow, quick = operation(0.5), operation(0.125)
    assert last_of([slow, slow, quick], [quick, quick, slow]) == {"rank": 1, "share": pytest.approx(2 / 3)}
    assert last_of([slow, quick], [quick, slow]) is None, "each in half of them"
    assert last_of([quick], [quick]) is None, "both at once"


@pytest.mark.parametrize(("pipeline", "last"), [(False, 1), (True, 0)])
def test_stages_are_not_late_for_each_other(pipeline, last):
    early, late = operation(0.5), operation(0.125)
    across = [operation(0.5, group="world")] * 2, [operation(0.125, group="world")] * 2
    assert last_of([late, *across[0]], [early, *across[1]], pipeline=pipeline)["rank"] == last
