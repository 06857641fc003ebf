"""Real attempts of a point: told to end, they end after one step with a checkpoint of it, and the next one goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from run_dirs import add_point, make_config, make_study, validator
from study_command import TESTS, wait_for

from harness.analysis.goodput import doubts, ledger
from harness.analysis.read import read_point
from harness.config import Checkpoint
from harness.parity.compare import LOSS_TOLERANCE
from launch.environment import SOURCE
from launch.local import marked

STEPS = 26


def planted(folder: Path, **changes) -> Path:
    config = make_config(gpus=2, seq_len=32, steps=STEPS, warmup=3, **changes)
    return add_point(make_study(folder), config, status="running")


def start(run_dir: Path, number: int, data_s: float = 0.0) -> subprocess.Popen[bytes]:
    delays = {"data": dict.fromkeys(range(2, STEPS + 1), data_s)} if data_s else {}
    variables = {**os.environ, "PYTHONPATH": f"{TESTS}:{SOURCE}", "DELAYS": json.dumps(delays)}
    words = [sys.executable, "-m", "attempt_controller", str(run_dir), str(number), "0"]
    return subprocess.Popen(words, env=variables)


def records(run_dir: Path, number: int, kind: str) -> list[dict]:
    lines = (run_dir / "attempts" / str(number) / "events.jsonl").read_text().splitlines()
    everything = [json.loads(line) for line in lines]
    for record in everything:
        validator().validate(record)
    return [record for record in everything if record["kind"] == kind]


def ranks(run_dir: Path) -> list[psutil.Process]:
    return [process for process in marked(str(run_dir)) if "RANK" in process.environ()]


def trained(run_dir: Path, step: int) -> bool:
    """Whether rank 0 has done a step, by its own witness."""
    witness = run_dir / "attempts" / "0" / "witness.jsonl"
    seen = map(json.loads, witness.read_text().splitlines()) if witness.exists() else ()
    return any(saw["what"] == "step" and saw["step"] >= step for saw in seen)


@pytest.mark.parametrize("mode", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_an_attempt_that_is_told_to_end_is_gone_on_from_with_the_same_losses(tmp_path: Path, mode: str) -> None:
    whole = planted(tmp_path / "whole")
    run_dir = planted(tmp_path / "cut", checkpoint=Checkpoint("steps", "steps", 4, mode))
    uninterrupted, first = start(whole, 0), start(run_dir, 0, data_s=0.1)
    wait_for(lambda: trained(run_dir, 6), 120)
    for rank in ranks(run_dir)[:1]:  # one is enough, whichever it is
        rank.send_signal(signal.SIGTERM)
    assert (first.wait(60), uninterrupted.wait(60)) == (0, 0)

    [told] = records(run_dir, 0, "preempted")
    last = told["step"]
    assert told | {"checkpoint": True, "signal": "SIGTERM"} == told
    assert 6 <= last < STEPS
    assert [record["step"] for record in records(run_dir, 0, "step")] == list(range(1, last + 1))
    assert records(run_dir, 0, "end") == []
    written = [record["step"] for record in records(run_dir, 0, "checkpoint")]
    assert written == sorted({*range(4, last, 4), last})
    assert {record["mode"] for record in records(run_dir, 0, "checkpoint")} == {mode}

    assert start(run_dir, 1).wait(60) == 0
    steps = records(run_dir, 1, "step")
    assert [record["step"] for record in steps] == list(range(last + 1, STEPS + 1))
    assert [record["role"] for record in steps[:5]] == ["first", "warmup", "warmup", "measured", "measured"]
    [end] = records(run_dir, 1, "end")
    assert end["steps"] == STEPS
    [restore] = [phase for phase in records(run_dir, 1, "phase") if phase["name"] == "restore"]
    assert restore["duration_s"] > 0

    cut = records(run_dir, 0, "step") + steps
    for one, other in zip(cut, records(whole, 0, "step"), strict=True):
        assert abs(one["loss"] - other["loss"]) <= LOSS_TOLERANCE and one["lr"] == other["lr"]

    point = read_point(run_dir)
    tiled = ledger(point.launches, point.events)
    assert (tiled.kept_steps, tiled.lost_steps, tiled.attempts) == (STEPS, 0, 2)
    assert doubts(tiled) == [] and point.warnings == []
    assert tiled.buckets["restore"] > 0 and tiled.buckets["checkpoint_stall"] > 0 and tiled.buckets["shutdown"] > 0


def test_without_checkpoints_it_finishes_its_records_and_ends(tmp_path: Path) -> None:
    run_dir = planted(tmp_path)
    attempt = start(run_dir, 0, data_s=0.1)
    wait_for(lambda: trained(run_dir, 3), 120)
    for rank in ranks(run_dir):
        rank.send_signal(signal.SIGUSR2)
    assert attempt.wait(60) == 0
    [told] = records(run_dir, 0, "preempted")
    assert (told["checkpoint"], told["signal"]) == (False, "SIGUSR2")
    assert [record["step"] for record in records(run_dir, 0, "step")] == list(range(1, told["step"] + 1))
    launch = json.loads((run_dir / "attempts" / "0" / "launch.json").read_text())
    assert launch["exit_code"] == 0
    assert not (run_dir / "checkpoints").exists()
