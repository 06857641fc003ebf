"""The benchmark on forked ranks: each operation checked element by element and timed as on the slowest rank."""

import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks

from harness.collectives.benchmark import benchmark, measure
from harness.collectives.check import WrongResult, fill, wrong_elements
from harness.collectives.operations import Buffers
from harness.collectives.timing import BATCHES, Launch, batch, timed
from harness.config import OPERATIONS
from harness.plan.benchmark import called
from harness.plan.busbw import factor
from harness.recorder.clock import HostClock

CPU = torch.device("cpu")
KIB = 2**10
# Below and above what is made and compared at a time, so that positions go on from one part to the next.
SIZES = [4 * KIB, 2**25]


def wrong_everywhere(size: int) -> dict[str, list[int]]:
    buffers = Buffers(size, size, CPU)
    calls = [buffers.call(op, called(op, size, dist.get_world_size())) for op in OPERATIONS]
    return {call.op: wrong_elements(call, call.run) for call in calls}


@pytest.mark.parametrize(("ranks", "size"), [(2, SIZES[0]), (2, SIZES[1]), (3, SIZES[0])])
def test_every_operation_moves_every_element(ranks, size) -> None:
    for found in run_ranks(ranks, wrong_everywhere, size):
        assert found == {op: [0] * ranks for op in OPERATIONS}


def hand_made() -> dict[str, list[float]]:
    """What came out of each operation on three ranks, 16 bytes a rank, beside what went in."""
    buffers, told = Buffers(48, 48, CPU), {}
    for op in OPERATIONS:
        call = buffers.call(op, 48)
        fill(call)
        told[f"{op} in"] = call.given.tolist()
        call.run()
        told[f"{op} out"] = call.got.tolist()
    return told


def test_what_is_moved_tells_rank_and_position() -> None:
    first, second, third = run_ranks(3, hand_made)
    assert first["all_reduce in"] == list(range(1, 13))
    assert second["all_reduce in"] == [62 + position for position in range(12)]
    assert second["all_reduce out"] == [3 * position + 1 + 62 + 123 for position in range(12)]
    assert second["reduce_scatter out"] == [3 * position + 186 for position in range(4, 8)]
    assert second["all_gather out"] == [*range(1, 5), *(62 + p for p in range(4, 8)), *(123 + p for p in range(8, 12))]
    assert third["all_to_all out"] == [
        rank["all_to_all in"][position] for rank in (first, second, third) for position in range(8, 12)
    ]
    assert third["broadcast out"] == first["broadcast in"]
    assert first["send_recv out"] == third["send_recv in"]


def damaged(op: str) -> list[int]:
    """Each rank's wrong elements after an operation that the second rank's result of is not what it should be."""
    call = Buffers(4 * KIB, 4 * KIB, CPU).call(op, 4 * KIB)

    def run() -> None:
        call.run()
        if dist.get_rank() == 1:
            call.got[-1] += 1
            call.got[:8] = call.got[:8].flip(0)

    return wrong_elements(call, run)


@pytest.mark.parametrize("op", OPERATIONS)
def test_elements_that_are_changed_or_out_of_place_are_counted_where_they_are(op) -> None:
    assert run_ranks(2, damaged, op) == [[0, 9]] * 2


def left_undone() -> list[list[int]]:
    buffers = Buffers(4 * KIB, 4 * KIB, CPU)
    calls = [buffers.call(op, 4 * KIB) for op in OPERATIONS]
    return [wrong_elements(call, call.run) and wrong_elements(call, lambda: None) for call in calls]


def test_an_operation_that_does_nothing_is_wrong_even_where_the_right_result_lay_before() -> None:
    whole, half = KIB, KIB // 2
    # all-gather's and reduce-scatter's results are spoilt first; a broadcast has nothing to do on its source
    assert run_ranks(2, left_undone)[0] == [
        [whole, whole],
        [whole, whole],
        [half, half],
        [whole, whole],
        [0, whole],
        [whole, whole],
    ]


def records(size: int, op: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    buffers = Buffers(size, size, CPU)
    benchmark((op,), [size], buffers, CPU, HostClock(), lambda kind, **record: told.append({"kind": kind, **record}))
    return told


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_record_tells_time_and_bandwidth_by_the_conventions(op) -> None:
    first, second = (told for [told] in run_ranks(2, records, 64 * KIB, op))
    assert (first["kind"], first["op"], first["bytes"], first["group_size"]) == ("benchmark", op, 64 * KIB, 2)
    assert first["in_place"] == (op in ("all_reduce", "broadcast"))
    assert first["wrong"] == 0 and first["batches"] == BATCHES
    assert 0 < first["duration_min_s"] <= first["duration_s"] <= first["duration_max_s"]
    assert first["algbw"] == pytest.approx(64 * KIB / first["duration_s"])
    assert first["busbw"] == pytest.approx(first["algbw"] * factor(op, 2))
    assert 0 < first["timed_s"] < first["whole_s"]
    # the slowest rank's time is that of all
    for key in ("iterations", "duration_s", "duration_min_s", "duration_max_s"):
        assert first[key] == second[key]


def late() -> tuple[float, float]:
    """Seconds of a call in which the second rank takes 100 ms, as all are told and as this rank alone has them."""

    def run() -> None:
        if dist.get_rank() == 1:
            time.sleep(0.1)

    launch, clock = Launch(run, 1), HostClock()
    return timed(launch, clock, CPU, 0.1).seconds[0], batch(launch, 2, clock, CPU) / 2


def test_an_operation_takes_as_long_as_on_its_slowest_rank() -> None:
    (first, own), (second, _) = run_ranks(2, late)
    assert first == second >= 0.1
    assert own < 0.1


def refused() -> str:
    call = Buffers(4 * KIB, 0, CPU).call("all_reduce", 4 * KIB)
    wrong = measure(call, False, CPU, HostClock(), lambda kind, **record: None)
    assert wrong == [0, 0]

    class Broken(Buffers):
        def call(self, op: str, size: int) -> Any:
            whole = super().call(op, size)
            return type(whole)(op, size, whole.given, whole.got, lambda: None)

    told: list[int] = []
    try:
        benchmark(
            ("all_reduce",),
            [KIB],
            Broken(KIB, 0, CPU),
            CPU,
            HostClock(),
            lambda kind, **record: told.append(record["wrong"]),
        )
    except WrongResult as error:
        assert told == [512]
        return str(error)
    return "nothing"


def test_a_wrong_element_ends_the_rank_that_got_it_when_it_is_recorded() -> None:
    assert (
        run_ranks(2, refused) == ["all_reduce of 1024 bytes: 256 of 256 elements are wrong here, 512 on all ranks"] * 2
    )
