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
    make_progress,
    make_step,
    make_timed,
    record,
    tokens_per_step,
)

from harness.analysis.goodput import BUCKETS, doubts, goodput_efficiency, ledger
from harness.analysis.steps import kept

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


def test_a_running_point_counts_to_its_last_record_or_to_its_progress():
    launch, events = make_attempt(CONFIG, [0.5] * 3, ended=False)
    end, launch["end"] = launch["end"], None
    assert ledger([launch], {0: events}).wall_s == pytest.approx(end - EPOCH)
    progress = make_progress(end + 1, first=1, first_time=end - 1.5, step=6, finished=6)
    later = ledger([launch], {0: [*events, progress]})
    assert later.wall_s == pytest.approx(end - EPOCH + 1)
    # two more steps, which will be recorded soon
    assert (later.kept_steps, later.lost_steps, later.kept_tokens) == (6, 0, 6 * TOKENS)
    assert later.buckets["step"] == pytest.approx(1.5 + 1)


def test_steps_that_were_finished_and_never_recorded_are_lost():
    """Killed in step 7; the last records are of step 4."""
    launch, events = make_attempt(CONFIG, [0.5] * 3, ended=False)
    recorded = launch["end"]
    launch["end"] = recorded + 1.3
    events.append(make_progress(recorded + 1, first=1, first_time=recorded - 1.5, step=6, finished=6))
    result = ledger([launch], {0: events})
    assert (result.kept_steps, result.lost_steps, result.kept_tokens) == (4, 2, 4 * TOKENS)
    assert result.buckets["step_lost"] == pytest.approx(1.3)
    assert result.buckets["other"] == pytest.approx(0, abs=1e-6)
    # nor has an attempt kept them that was killed before its own first step
    second, built = make_attempt(CONFIG, [], number=1, start=launch["end"] + 1, ended=False)
    again = ledger([launch, second], {0: events, 1: [event for event in built if event["kind"] != "step"]})
    assert (again.kept_steps, again.lost_steps) == (4, 2)


def test_an_attempt_that_starts_over_loses_all_steps_before_it_even_those_not_yet_run_again():
    lost = make_attempt(CONFIG, [0.5] * 9, ended=False)
    again = make_attempt(CONFIG, [0.5] * 2, number=1, start=lost[0]["end"] + 7)
    again[0]["end"] = None
    events = {0: lost[1], 1: again[1]}
    result = ledger([lost[0], again[0]], events)
    assert (result.kept_steps, result.lost_steps, result.kept_tokens) == (3, 10, 3 * TOKENS)
    assert [(step["attempt"], step["step"]) for step in kept(events)] == [(1, 1), (1, 2), (1, 3)]
    assert result.buckets["step_lost"] == pytest.approx(9 * 0.5)


def test_an_attempt_that_finished_only_unrecorded_steps_has_lost_what_it_ran_again():
    """Three attempts: ten recorded steps; from step 6, killed before its first record; again from step 6."""
    first = make_attempt(CONFIG, [0.5] * 9, ended=False)
    second = make_attempt(CONFIG, [], number=1, start=first[0]["end"], first_step=6, ended=False)
    records = [event for event in second[1] if event["kind"] != "step"]
    done = second[0]["end"]
    second[0]["end"] = done + 1.2
    records.append(make_progress(done + 1, 1, first=6, first_time=done, step=8, finished=8))
    alone = ledger([first[0], second[0]], {0: first[1], 1: records})
    assert (alone.kept_steps, alone.lost_steps) == (5, 5 + 3)
    assert alone.buckets["compile_and_first_step"] == pytest.approx(2 * FIRST_STEP_S)
    assert alone.buckets["step_lost"] == pytest.approx(5 * 0.5 + 1.2)
    third = make_attempt(CONFIG, [0.5] * 4, number=2, start=done + 1.2, first_step=6)
    result = ledger([first[0], second[0], third[0]], {0: first[1], 1: records, 2: third[1]})
    assert (result.kept_steps, result.lost_steps, result.kept_tokens) == (10, 5 + 3, 10 * TOKENS)
    assert sum(result.buckets.values()) == pytest.approx(result.wall_s)


def test_steps_that_a_later_attempt_goes_on_from_are_kept_without_a_record():
    """Killed in step 7 with records up to step 4; the next attempt begins at step 6, so that step 5 is in its state."""
    first = make_attempt(CONFIG, [0.5] * 3, ended=False)
    recorded = first[0]["end"]
    first[0]["end"] = recorded + 1.3
    first[1].append(make_progress(recorded + 1, first=1, first_time=recorded - 1.5, step=6, finished=6))
    second = make_attempt(CONFIG, [0.5], number=1, start=recorded + 1.3, first_step=6)
    result = ledger([first[0], second[0]], {0: first[1], 1: second[1]})
    assert (result.kept_steps, result.lost_steps, result.kept_tokens) == (7, 1, 7 * TOKENS)
    assert result.buckets["step"] == pytest.approx(3 * 0.5 + 0.5 + 0.5)
    assert result.buckets["step_lost"] == pytest.approx(0.5 + 0.3)


@pytest.mark.parametrize(
    ("phase", "done"), [("rendezvous", 0), ("model_build", 1), ("restore", 2), ("compile_and_first_step", 2)]
)
def test_an_attempt_that_was_killed_before_its_first_step_was_done_was_in_a_phase(phase, done):
    launch, events = make_attempt(CONFIG, [0.5])
    stamped = events[:done]
    since = EPOCH + PROCESS_START_S + sum(event["duration_s"] for event in stamped)
    launch["end"] = since + 50
    result = ledger([launch], {0: [*stamped, make_progress(since, phase=phase)]})
    assert result.buckets[phase] == pytest.approx(50)
    assert result.buckets["process_start"] == pytest.approx(PROCESS_START_S)
    assert result.buckets["other"] == pytest.approx(0, abs=1e-6)
    assert result.lost_steps == 0


def test_a_checkpoint_that_was_being_written_is_no_lost_step():
    launch, events = make_attempt(CONFIG, [0.5] * 3, ended=False)
    recorded = launch["end"]
    launch["end"] = recorded + 21
    # step 5 was done, a checkpoint told at once, step 6 done, and then another one
    events.append(record("phase", EPOCH, name="checkpoint_stall", start=recorded + 0.5, duration_s=9.0))
    events.append(make_progress(recorded + 10, first=1, first_time=EPOCH, step=6, finished=6, phase="checkpoint_stall"))
    result = ledger([launch], {0: events})
    assert result.buckets["checkpoint_stall"] == pytest.approx(9 + 11)
    assert result.buckets["step_lost"] == pytest.approx(1)
    assert result.lost_steps == 2


def test_an_attempt_that_was_killed_with_its_launcher_ends_with_its_last_sign_of_life():
    first = make_attempt(CONFIG, [0.5] * 3, ended=False)
    recorded, first[0]["end"] = first[0]["end"], None
    first[1].append(make_progress(recorded + 1, first=1, first_time=EPOCH, step=6, finished=6))
    second = make_attempt(CONFIG, [0.5] * 9, number=1, start=recorded + 8)
    result = ledger([first[0], second[0]], {0: first[1], 1: second[1]})
    assert result.buckets["restart_gap"] == pytest.approx(7)
    assert result.buckets["step_lost"] == pytest.approx(3 * 0.5 + 1)
    assert (result.kept_steps, result.lost_steps) == (10, 6)
    assert sum(result.buckets.values()) == pytest.approx(result.wall_s)
    # ranks that went on without a launcher count up to the next start at most
    second[0]["start"] = recorded + 0.25
    outlived = ledger([first[0], second[0]], {0: first[1], 1: second[1]})
    assert outlived.buckets["restart_gap"] == 0
    assert sum(outlived.buckets.values()) == pytest.approx(outlived.wall_s)


def test_time_that_two_stamps_claim_counts_once_and_is_doubted():
    launch, events = make_attempt(CONFIG, [0.5] * 3)
    events.append(record("phase", EPOCH, name="checkpoint_stall", start=EPOCH + PROCESS_START_S, duration_s=2.5))
    result = ledger([launch], {0: events})
    assert sum(result.buckets.values()) == pytest.approx(result.wall_s)
    assert doubts(result) == ["the ledger's stamps overlap by 2.5 s"]
    launch["end"] -= 1
    sooner = ledger([launch], {0: events})
    assert sum(sooner.buckets.values()) == pytest.approx(sooner.wall_s) == pytest.approx(result.wall_s - 1)
    launch["end"] += 4
    events[-2]["time"] += 3
    assert "3.0 s of the wall-clock carry no stamp" in doubts(ledger([launch], {0: events}))


def test_nothing_started_yet():
    result = ledger([], {})
    assert (result.wall_s, result.goodput_tokens_per_s, result.goodput_fraction) == (0, None, None)


durations = st.floats(0, 100)
kills = st.sampled_from(["ended", "killed", "killed with its launcher", "killed without a progress"])
attempts = st.lists(
    st.tuples(
        st.lists(st.tuples(durations, durations), min_size=1, max_size=6),
        st.integers(1, 5),
        st.integers(0, 4),
        durations,
        durations,
        kills,
        st.sampled_from(["step", "checkpoint_stall"]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(attempts)
def test_the_ledger_tiles_the_wall_clock(made):
    """Stamped spans with unstamped ones between them, steps run again, some without a record, ended or killed."""
    begun = now = 1000.0
    launches, events, finished = [], {}, []
    for number, (steps, first_step, unwritten, gap, between, ending, phase) in enumerate(made):
        begin = now
        records = [record("phase", now, number, name="restore", start=now + gap, duration_s=between)]
        now += gap + between
        first_time = None
        for step, (seconds, data) in enumerate(steps, start=first_step):
            role = "first" if step == first_step else "measured"
            now += between
            records.append(make_step(step, role, now, seconds, 7, attempt=number, data_s=min(data, seconds)))
            now += seconds
            first_time = first_time or now
        ran = set(range(first_step, step + 1))
        if ending == "ended":
            records.append(record("end", now, number, steps=step, tokens=1))
        elif ending != "killed without a progress":
            told = {"first": first_step, "first_time": first_time, "step": step, "finished": step, "phase": phase}
            records = records[: len(records) - unwritten]
            records.append(make_progress(now, number, **told))
        else:
            ran = {event["step"] for event in records if event["kind"] == "step"}
        finished.append(ran)
        now += gap
        launch = {"command": ["x"], "host": "h", "position": 0, "queue_s": 1.0, "exit_code": 0, "start": begin}
        end = None if ending == "killed with its launcher" else now
        launches.append(record("launch", begin, number, **launch, end=end))
        events[number] = records
        now += gap
    result = ledger(launches, events)
    assert sum(result.buckets.values()) == pytest.approx(result.wall_s, abs=1e-6)
    assert min(result.buckets.values()) >= 0
    assert result.wall_s <= now - begun
    if launches[-1]["end"] is not None:
        assert result.wall_s == pytest.approx(launches[-1]["end"] - begun)
    assert result.overlap_s == pytest.approx(0, abs=1e-6)
    assert result.kept_steps + result.lost_steps == sum(map(len, finished))
    firsts = [min(ran) for ran in finished]
    surviving = [step for k, ran in enumerate(finished) for step in ran if step < min(firsts[k + 1 :], default=99)]
    written = {event["step"] for event in events[len(made) - 1] if event["kind"] == "step"}
    if made[-1][5] == "killed":  # what the last attempt has not recorded nobody has kept
        surviving = [step for step in surviving if step < firsts[-1] or step in written]
    assert result.kept_steps == len(surviving) == len(set(surviving))
