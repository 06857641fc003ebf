"""The ledger: definitions, resumed attempts, and that it tiles the wall-clock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_dirs import (
    BUILD_S,
    EPOCH,
    FIRST_STEP_S,
    PROCESS_START_S,
    RENDEZVOUS_S,
    SHUTDOWN_S,
    make_attempt,
    make_config,
    make_step,
    make_timed,
    record,
    tokens_per_step,
)

from harness.analysis.goodput import BUCKETS, goodput_efficiency, ledger

CONFIG = make_config()
TOKENS = tokens_per_step(CONFIG)


def test_the_worked_example():
    """8 GPUs, 100,000 tokens in 10 s, peak 1,500: 10,000 tokens/s and 83.3 %."""
    launch = record("launch", 0, command=["x"], host="h", position=0, queue_s=None, start=0.0, end=10.0, exit_code=0)
    result = ledger([launch], {0: [make_step(step, "measured", step, 1.0, 10_000) for step in range(1, 11)]})
    assert result.goodput_tokens_per_s == 10_000
    assert goodput_efficiency(result.goodput_tokens_per_s, 8, 1_500) == pytest.approx(0.833, abs=0.0005)


def test_goodput_efficiency_without_a_peak_is_unknown():
    assert goodput_efficiency(10_000, 8, None) is None


def test_a_benchmark_s_timed_calls_are_productive_and_the_rest_of_a_size_is_its_first_step():
    launch, events = make_timed(make_config(gpus=2), {"all_reduce": {1024: 1e-5, 2048: 2e-5}})
    buckets = ledger([launch], {0: events}).buckets
    assert buckets["step"] == pytest.approx(2 * 0.2)
    assert buckets["compile_and_first_step"] == pytest.approx(2 * 0.1)
    assert buckets["other"] == pytest.approx(0, abs=1e-6)
    assert sum(buckets.values()) == pytest.approx(launch["end"] - launch["start"])


def test_one_attempt_by_the_definitions():
    launch, events = make_attempt(CONFIG, [0.5] * 10)
    events.append(record("phase", EPOCH, name="checkpoint_stall", start=EPOCH + 9, duration_s=0.0))
    result = ledger([launch], {0: events})
    assert set(result.buckets) == set(BUCKETS)
    expected = {
        "process_start": PROCESS_START_S,
        "rendezvous": RENDEZVOUS_S,
        "model_build": BUILD_S,
        "compile_and_first_step": FIRST_STEP_S,
        "step": 5.0,
        "shutdown": SHUTDOWN_S,
    }
    for name in BUCKETS:
        assert result.buckets[name] == pytest.approx(expected.get(name, 0), abs=1e-6), name
    assert result.kept_tokens == 11 * TOKENS
    assert result.goodput_fraction == pytest.approx(5.0 / result.wall_s)
    assert result.queue_s is None


def test_waiting_for_data_is_split_from_the_step():
    launch, events = make_attempt(CONFIG, [0.5] * 4)
    for event in events:
        if event["kind"] == "step":
            event["data_s"] = 0.1
    buckets = ledger([launch], {0: events}).buckets
    assert buckets["data_stall"] == pytest.approx(0.4)
    assert buckets["step"] == pytest.approx(1.6)
    # The first step counts whole.
    assert buckets["compile_and_first_step"] == FIRST_STEP_S


def test_resumed_attempts_count_a_step_once():
    """Killed after step 10; resumed from step 5, 7 s later: steps 6 to 10 are lost and run again."""
    lost = make_attempt(CONFIG, [0.5] * 9, ended=False)
    again = make_attempt(CONFIG, [0.5] * 10, number=1, start=lost[0]["end"] + 7, first_step=6)
    result = ledger([again[0], lost[0]], {0: lost[1], 1: again[1]})
    assert result.buckets["restart_gap"] == pytest.approx(7)
    assert result.buckets["step_lost"] == pytest.approx(5 * 0.5)
    assert result.buckets["step"] == pytest.approx(4 * 0.5 + 10 * 0.5)
    assert result.buckets["compile_and_first_step"] == 2 * FIRST_STEP_S
    assert result.kept_tokens == 16 * TOKENS
    assert result.wall_s == pytest.approx(again[0]["end"] - EPOCH)
    assert sum(result.buckets.values()) == pytest.approx(result.wall_s)


def test_the_step_that_was_cut_off_is_lost():
    launch, events = make_attempt(CONFIG, [0.5] * 3, ended=False)
    launch["end"] += 60.0
    result = ledger([launch], {0: events})
    assert result.buckets["step_lost"] == pytest.approx(60)
    assert result.buckets["other"] == pytest.approx(0)


def test_an_attempt_without_records_was_starting():
    launch, _ = make_attempt(CONFIG, [0.5])
    assert ledger([launch], {}).buckets["process_start"] == pytest.approx(launch["end"] - launch["start"])


def test_a_running_point_counts_to_now_or_to_its_last_record():
    launch, events = make_attempt(CONFIG, [0.5] * 3, ended=False)
    end, launch["end"] = launch["end"], None
    assert ledger([launch], {0: events}).wall_s == pytest.approx(end - EPOCH)
    later = ledger([launch], {0: events}, now=end + 2)
    assert later.wall_s == pytest.approx(end - EPOCH + 2)
    assert later.buckets["other"] == pytest.approx(2)


def test_nothing_started_yet():
    result = ledger([], {})
    assert (result.wall_s, result.goodput_tokens_per_s, result.goodput_fraction) == (0, None, None)


durations = st.floats(0, 100)
attempts = st.lists(
    st.tuples(
        st.lists(st.tuples(durations, durations), min_size=1, max_size=6),
        st.integers(1, 5),
        durations,
        durations,
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(attempts)
def test_the_ledger_tiles_the_wall_clock(made):
    """Stamped spans with unstamped ones between them, any steps run again, ended or cut off."""
    begun = now = 1000.0
    launches, events = [], {}
    for number, (steps, first_step, gap, between, ended) in enumerate(made):
        begin = now
        records = [record("phase", now, number, name="restore", start=now + gap, duration_s=between)]
        now += gap + between
        for step, (seconds, data) in enumerate(steps, start=first_step):
            role = "first" if step == first_step else "measured"
            now += between
            records.append(make_step(step, role, now, seconds, 7, attempt=number, data_s=min(data, seconds)))
            now += seconds
        if ended:
            records.append(record("end", now, number, steps=step, tokens=1))
        now += gap
        launch = {"command": ["x"], "host": "h", "position": 0, "queue_s": 1.0, "exit_code": 0}
        launches.append(record("launch", begin, number, **launch, start=begin, end=now))
        events[number] = records
        now += gap
    result = ledger(launches, events)
    assert sum(result.buckets.values()) == pytest.approx(result.wall_s, abs=1e-6)
    assert min(result.buckets.values()) >= 0
    assert result.wall_s == pytest.approx(launches[-1]["end"] - begun)
    numbers = {event["step"] for records in events.values() for event in records if event["kind"] == "step"}
    assert result.kept_tokens == 7 * len(numbers)
