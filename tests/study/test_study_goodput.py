"""The ledger of real attempts: time that was spent in known places, and processes that were killed."""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from run_dirs import add_point, make_config, make_study, validator
from study_command import TESTS, wait_for

from harness.analysis.goodput import Ledger, doubts, ledger
from harness.analysis.read import read_point
from launch.environment import SOURCE
from launch.local import marked

GAP_S = 4.0
STEPS = 14


@dataclass
class Attempt:
    """A real attempt of a run directory with a controller of its own."""

    run_dir: Path
    number: int
    controller: subprocess.Popen[bytes]

    @property
    def folder(self) -> Path:
        return self.run_dir / "attempts" / str(self.number)

    def witnessed(self, what: str) -> list[dict[str, Any]]:
        """What rank 0 says by itself that it did."""
        path = self.folder / "witness.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [saw for saw in map(json.loads, lines) if saw["what"] == what]

    def clock(self, name: str) -> float:
        return float((self.folder / name).read_text())

    def tree(self) -> list[psutil.Process]:
        """The launcher and its ranks, once rank 0 trains."""
        wait_for(lambda: self.witnessed("step"), 120)
        return marked(str(self.run_dir))

    def end(self) -> float:
        """Wait for the end; when the last process was gone, by this process's clock."""
        psutil.wait_procs(self.tree(), timeout=120)
        ended = time.time()
        assert self.controller.wait(30) == 0
        return ended

    def kill(self, step: int, controller: bool) -> float:
        """SIGKILL for every process at once, as soon as rank 0 has done a step; when that was."""
        processes = self.tree()
        if controller:
            processes.insert(0, psutil.Process(self.controller.pid))
        wait_for(lambda: self.witnessed("step")[-1]["step"] >= step, 60)
        killed = time.time()
        for process in processes:
            process.kill()
        self.controller.wait(30)
        return killed


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    config = make_config(gpus=2, seq_len=32, steps=STEPS, warmup=2)
    return add_point(make_study(tmp_path), config, status="running")


def start(run_dir: Path, number: int, start_s: float = 0, **delays: dict[int, float]) -> Attempt:
    variables = {**os.environ, "PYTHONPATH": f"{TESTS}:{SOURCE}", "DELAYS": json.dumps(delays)}
    words = [sys.executable, "-m", "attempt_controller", str(run_dir), str(number), str(start_s)]
    return Attempt(run_dir, number, subprocess.Popen(words, env=variables))


def tiled(run_dir: Path) -> Ledger:
    """The ledger as it stands; it tiles, and nothing of it is in doubt."""
    point = read_point(run_dir)
    result = ledger(point.launches, point.events)
    assert sum(result.buckets.values()) == pytest.approx(result.wall_s, abs=1e-6)
    assert result.buckets["other"] <= max(1.0, 0.01 * result.wall_s)
    assert (doubts(result), point.warnings) == ([], [])
    return result


def test_delays_land_in_their_buckets(run_dir: Path) -> None:
    data, pauses = {4: 1.0, 9: 1.5}, {5: 1.0, 7: 0.5, STEPS: 1.0}
    attempt = start(run_dir, 0, start_s=3, data=data, pauses=pauses)
    ended = attempt.end()
    result = tiled(run_dir)
    seconds = result.buckets
    assert result.wall_s == pytest.approx(ended - attempt.clock("started"), abs=1)

    slept = sum(saw["seconds"] for saw in attempt.witnessed("data"))
    assert slept >= 2.5
    assert seconds["data_stall"] == pytest.approx(slept, rel=0.1)
    paused = sum(saw["seconds"] for saw in attempt.witnessed("pause"))
    assert paused >= 2.5
    assert seconds["checkpoint_stall"] == pytest.approx(paused, rel=0.1)
    # from the shell's waking to rank 0's first words nothing was delayed
    [run] = attempt.witnessed("run")
    assert seconds["process_start"] - (run["time"] - attempt.clock("slept")) == pytest.approx(3, rel=0.1)

    assert (result.kept_steps, result.lost_steps, result.attempts) == (STEPS, 0, 1)
    assert (seconds["step_lost"], seconds["restart_gap"]) == (0, 0)
    progress = json.loads((attempt.folder / "progress.json").read_text())
    validator().validate(progress)
    told = {name: progress[name] for name in ("phase", "first", "step", "finished")}
    assert told == {"phase": "shutdown", "first": 1, "step": STEPS, "finished": STEPS}


def test_a_tree_that_is_killed_at_any_step_has_lost_exactly_what_it_did(run_dir: Path) -> None:
    """Two attempts are killed, the second with its controller; the third trains to the end."""
    draw = random.Random(5)
    waits = dict.fromkeys(range(2, STEPS + 1), 0.15)
    lost, gaps, killed = 0, 0.0, 0.0
    for number in range(2):
        attempt = start(run_dir, number, data=waits)
        with_controller = number == 1
        ended = attempt.kill(draw.randint(2, STEPS - 1), with_controller)
        gaps += attempt.clock("started") - killed if killed else 0.0
        killed = ended
        lost += attempt.witnessed("step")[-1]["step"]
        time.sleep(GAP_S)
        # between two attempts nobody has kept what was never recorded, as far as it is known to be over
        between = tiled(run_dir)
        assert between.wall_s == pytest.approx(killed - first_clock(run_dir), abs=1)
        if not with_controller:
            assert between.kept_steps + between.lost_steps == lost
    last = start(run_dir, 2, data=waits)
    ended = last.end()
    gaps += last.clock("started") - killed
    result = tiled(run_dir)
    assert (result.attempts, result.kept_steps, result.lost_steps) == (3, STEPS, lost)
    assert gaps > 2 * GAP_S
    assert result.buckets["restart_gap"] == pytest.approx(gaps, rel=0.1)
    assert result.buckets["step_lost"] > 0
    assert result.wall_s == pytest.approx(ended - first_clock(run_dir), abs=1)
    launches = [json.loads(path.read_text()) for path in sorted(run_dir.glob("attempts/*/launch.json"))]
    assert [launch["end"] is None for launch in launches] == [False, True, False]


def first_clock(run_dir: Path) -> float:
    """When the first command was executed, by itself."""
    return float((run_dir / "attempts" / "0" / "started").read_text())
