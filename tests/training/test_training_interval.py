"""When checkpoints are due, and that all ranks hear of it after the same step."""

import pytest

from harness.config import Checkpoint
from harness.plan.checkpoint import best_interval, failure_seconds
from harness.training import interval
from harness.training.interval import Interval


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(interval.time, "monotonic", lambda: now[0])
    return now


def test_steps_need_no_word_from_anybody() -> None:
    counted = Interval(Checkpoint("steps", "steps", 10), 8, 3)
    assert [step for step in range(1, 41) if counted.due(step)] == [10, 20, 30, 40]
    assert not counted.over(1000)


def test_seconds_are_told_once_and_counted_anew_from_the_end_of_the_write(clock) -> None:
    counted = Interval(Checkpoint("seconds", "seconds", 30), 8, 3)
    clock[0] += 29
    assert not counted.over(5)
    clock[0] += 1
    # on a GPU the answer comes a few steps later, and must not be asked for again meanwhile
    assert (counted.over(10), counted.over(15), counted.due(15)) == (True, False, False)
    counted.called = True
    assert counted.due(20)
    clock[0] += 12
    counted.written(12)
    assert not counted.due(21)
    clock[0] += 29
    assert not counted.over(25)
    clock[0] += 1
    assert counted.over(30)


def test_auto_measures_the_first_write_after_the_warm_up_and_each_again(clock) -> None:
    chosen = Checkpoint("auto", "auto", failure_hours=100.0)
    counted = Interval(chosen, 1000, 3)
    assert (counted.over(3), counted.over(4)) == (False, True)
    for stall_s in (2.0, 0.5):
        counted.written(stall_s)
        wanted = best_interval(stall_s, failure_seconds(chosen, 1000))
        assert failure_seconds(chosen, 1000) == 360 and stall_s < wanted < 60
        clock[0] += wanted - 0.1
        assert not counted.over(100)
        clock[0] += 0.2
        assert counted.over(100)
