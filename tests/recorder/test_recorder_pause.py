"""Time that is given to something else between two steps, and where a rank says that it is."""

import json
import os
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from ranks import run_ranks
from recorded_training import STEPS, recorded, records
from run_dirs import validator

from harness.recorder.progress import WIDTH, Progress

# between two flushes, at one, before and after a sampled step, and after the last step
PAUSES = {3: 0.2, 5: 0.3, 8: 0.2, 9: 0.2, STEPS: 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("paused")
    run_ranks(2, partial(recorded, "ddp", str(made), pauses=PAUSES))
    return made


def test_each_pause_is_a_phase_of_its_own_and_part_of_no_step(folder):
    phases = [record for record in records(folder, "phase") if record["name"] == "checkpoint_stall"]
    assert [record["duration_s"] for record in phases] == pytest.approx(list(PAUSES.values()), abs=0.05)
    steps = {record["step"]: record for record in records(folder, "step")}
    for (step, seconds), phase in zip(PAUSES.items(), phases, strict=True):
        assert phase["start"] >= steps[step]["start"] + steps[step]["duration_s"] - 1e-6
        if step < STEPS:
            assert phase["start"] + phase["duration_s"] <= steps[step + 1]["start"] + 1e-6
            assert steps[step + 1]["data_s"] < seconds


def test_steps_pauses_and_profiling_follow_each_other_without_a_gap(folder):
    stamped = sorted(records(folder, "step") + records(folder, "phase"), key=lambda record: record["start"])
    for before, after in pairwise(stamped):
        assert after["start"] == pytest.approx(before["start"] + before["duration_s"], abs=2e-5)
    [end] = records(folder, "end")
    last = stamped[-1]
    assert last["start"] + last["duration_s"] == pytest.approx(end["time"], abs=0.15)


def test_a_pause_is_on_record_as_soon_as_it_is_over(folder):
    """A kill must not lose it with the steps around it, which are brought together later."""
    phases = [record for record in records(folder, "phase") if record["name"] == "checkpoint_stall"]
    ends = {record["step"]: record["start"] + record["duration_s"] for record in records(folder, "step")}
    for step, phase in zip(PAUSES, phases, strict=True):
        assert phase["start"] + phase["duration_s"] - 1e-6 <= phase["time"] < ends.get(step + 1, float("inf"))


def test_the_steps_before_a_pause_are_on_record_when_it_begins(folder):
    """A checkpoint must not hold a step that a kill could still take from the record."""
    told, done = records(folder), 0
    for step in PAUSES:
        at = next(i for i, r in enumerate(told) if i > done and r.get("name") == "checkpoint_stall")
        assert [r["step"] for r in told[:at] if r["kind"] == "step"] == list(range(1, step + 1))
        done = at


def line(path: Path) -> dict:
    text = path.read_text()
    assert len(text) == WIDTH and text.count("\n") == 1 and text.endswith("\n")
    told = json.loads(text)
    validator().validate(told)
    return told


def test_progress_ends_with_the_last_step_finished(folder):
    told = line(folder / "progress.json")
    steps = records(folder, "step")
    assert (told["phase"], told["first"], told["step"], told["finished"]) == ("shutdown", 1, STEPS, STEPS)
    assert told["first_time"] == pytest.approx(steps[0]["start"] + steps[0]["duration_s"], abs=0.05)


def test_finished_is_what_the_device_has_passed_and_not_what_was_issued(tmp_path):
    progress = Progress(tmp_path / "progress.json", 2, "rendezvous")
    told = line(tmp_path / "progress.json")
    assert (told["attempt"], told["phase"], told["first"], told["finished"]) == (2, "rendezvous", None, None)
    device: set[str] = set()
    progress.step_done(7, "a", device.__contains__)
    told = line(tmp_path / "progress.json")
    assert (told["phase"], told["first"], told["step"], told["finished"], told["first_time"]) == (
        "step",
        7,
        7,
        None,
        None,
    )
    progress.step_done(8, "b", device.__contains__)
    device |= {"a", "b"}
    progress.step_done(9, "c", device.__contains__)
    told = line(tmp_path / "progress.json")
    assert (told["first"], told["step"], told["finished"]) == (7, 9, 8)
    assert told["first_time"] is not None
    progress.enter("checkpoint_stall")
    assert line(tmp_path / "progress.json")["phase"] == "checkpoint_stall"
    progress.close()


def test_a_shorter_line_leaves_nothing_of_a_longer_one(tmp_path):
    progress = Progress(tmp_path / "progress.json", 0, "compile_and_first_step")
    progress.step_done(10**9, 0, lambda mark: True)
    progress.enter("step")
    assert line(tmp_path / "progress.json")["finished"] == 10**9
    opened = progress.file
    progress.close()
    with pytest.raises(OSError):
        os.fstat(opened)
