"""Points that are started again, by themselves or by the same command, on real torchrun trees of a stand-in worker."""

import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from run_dirs import EPOCH, make_step, validator
from study_command import QUICK, Command, wait_for

from harness.analysis.goodput import doubts, ledger
from harness.analysis.read import read_point
from harness.analysis.steps import kept
from harness.study.attempts import following, fruitless
from launch.local import marked

WORDS = ("run", "gpus_per_node=2", *QUICK)
KEPT = ("checkpoint=steps", "checkpoint.every=1")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {})


def run(command: Command, *words: str, faults: str = "") -> subprocess.CompletedProcess[str]:
    """The command with a worker to which that happens, attempt by attempt."""
    command.environment["STANDIN_FAULTS"] = faults
    return command(*WORDS, *words, stand_in="steps")


def at_step(command: Command, step: int, *words: str, faults: str, attempt: int = 0) -> subprocess.Popen[str]:
    """The same, started, as soon as an attempt is at a step."""
    command.environment["STANDIN_FAULTS"] = faults
    started = command.start(*WORDS, *words, stand_in="steps")
    wait_for(lambda: step in steps(command, attempt))
    return started


def launches(command: Command) -> list[dict[str, Any]]:
    """The launch records of the only point, each by its attempt."""
    (point,) = command.points().values()
    found = sorted(point.glob("attempts/*/launch.json"), key=lambda path: int(path.parent.name))
    documents = [json.loads(path.read_text()) for path in found]
    assert [document["attempt"] for document in documents] == [int(path.parent.name) for path in found]
    return documents


def steps(command: Command, attempt: int) -> list[int]:
    """The steps that an attempt has recorded."""
    found = command.folder.glob(f"studies/default/points/*[!~]?/attempts/{attempt}/events.jsonl")
    records = [json.loads(line) for path in found for line in path.read_text().splitlines()]
    return [record["step"] for record in records if record["kind"] == "step"]


def status(command: Command) -> dict[str, Any]:
    (found,) = command.status().values()
    validator().validate(found)
    return found


def test_a_point_is_started_again_until_it_is_ok(command: Command) -> None:
    ended = run(command, "launcher.max_restarts=3", *KEPT, faults="kill3 kill5")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "attempt 0 ended failed: rank 1: ended with SIGKILL; starting again in 1 s" in ended.stdout
    assert "attempt 1 ended failed: rank 1: ended with SIGKILL; starting again in 2 s" in ended.stdout
    assert "started, 2 ranks, attempt 2" in ended.stdout
    assert [steps(command, attempt) for attempt in range(3)] == [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10]]
    assert (status(command)["status"], status(command)["attempt"], status(command)["reason"]) == ("ok", 2, None)
    told = launches(command)
    assert all(before["end"] + 1 <= after["start"] for before, after in itertools.pairwise(told))
    assert not list(command.folder.rglob("*lease*"))


def test_a_point_is_started_again_so_often_and_no_more(command: Command) -> None:
    ended = run(command, "launcher.max_restarts=1", faults="kill3 kill5 kill7")
    assert ended.returncode == 1
    assert (status(command)["status"], status(command)["attempt"]) == ("failed", 1)
    assert len(launches(command)) == 2


@pytest.mark.parametrize("mode", ["oom", "diverged"])
def test_what_would_come_again_is_not_tried_again(command: Command, mode: str) -> None:
    """And a single point that is out of memory is no success."""
    ended = command(*WORDS, "launcher.max_restarts=3", stand_in=mode)
    assert (ended.returncode, status(command)["status"], len(launches(command))) == (1, mode, 1)


def test_the_same_command_goes_on_with_a_point_that_has_checkpoints(command: Command) -> None:
    assert run(command, *KEPT, faults="kill3").returncode == 1
    (point,) = command.points().values()
    first = (point / "provenance.json").read_bytes()
    command.environment["NCCL_ALGO"] = "Ring"
    ended = run(command, *KEPT, faults="kill3")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "was failed, goes on" in ended.stdout
    assert "warning: not as it was at first: NCCL_ALGO not set, now Ring" in ended.stdout
    assert command.points().keys() == {point.name}
    assert [steps(command, attempt) for attempt in range(2)] == [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10]]
    assert (point / "provenance.json").read_bytes() == first
    for name, kind in (("provenance.json", "provenance"), ("env.json", "environment")):
        told = json.loads((point / "attempts" / "1" / name).read_text())
        validator().validate(told)
        assert told["kind"] == kind
    assert json.loads((point / "env.json").read_text())["effective"] == {}
    assert told["effective"] == {"NCCL_ALGO": "Ring"}
    assert "skipped, ok already" in run(command, *KEPT).stdout


def test_one_that_is_run_again_on_request_begins_anew(command: Command) -> None:
    assert run(command, *KEPT, faults="kill3").returncode == 1
    ended = run(command, *KEPT, "rerun=true")
    assert "was failed, kept as" in ended.stdout
    assert steps(command, 0)[-1] == 10


@pytest.mark.parametrize("words", [(), ("launcher.max_restarts=1",)], ids=["later", "beside"])
def test_what_a_killed_controller_has_left_goes_on(command: Command, words: tuple[str, ...]) -> None:
    """Also where it was killed between two attempts."""
    if words:
        killed = at_step(command, 3, *KEPT, *words, faults="kill3")
        wait_for(lambda: (status(command)["reason"] or "").startswith("attempt 0 ended"))
    else:
        killed = at_step(command, 3, *KEPT, faults="wait3")
    killed.kill()
    killed.communicate()
    assert "its controller has disappeared" in command("status", "default").stdout
    ended = run(command, *KEPT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "was running, goes on" in ended.stdout
    assert (launches(command)[0]["end"] is None, status(command)["attempt"]) == (not words, 1)
    assert [steps(command, attempt)[0] for attempt in range(2)] == [1, 4]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGUSR2])
def test_ranks_that_are_told_to_end_have_time_for_a_checkpoint(command: Command, number: signal.Signals) -> None:
    running = at_step(command, 3, *KEPT, "launcher.max_restarts=3", faults="wait3")
    running.send_signal(number)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 128 + number, err
    told = status(command)
    assert told["status"] == "preempted"
    assert told["reason"] == f"told to end by {number.name}; stopped after step 3, checkpoint written"
    assert len(launches(command)) == 1
    assert run(command, *KEPT).returncode == 0
    assert steps(command, 1)[0] == 4


SCONTROL = """#!/bin/bash
echo "$*" >> "$CALLS"
"""
SQUEUE = """#!/bin/bash
echo "${STATE:-RUNNING}"
"""


@pytest.mark.parametrize(
    ("state", "words", "number", "told"),
    [
        ("RUNNING", KEPT, signal.SIGUSR2, "job 7 is requeued"),
        ("COMPLETING", KEPT, signal.SIGTERM, None),
        ("RUNNING", KEPT, signal.SIGINT, None),
        ("RUNNING", (), signal.SIGTERM, "writes no checkpoints and would begin anew"),
    ],
    ids=["told", "cancelled", "ctrl-c", "no-checkpoints"],
)
def test_a_job_that_is_told_to_end_asks_for_its_next_start(
    command: Command, state: str, words: tuple[str, ...], number: signal.Signals, told: str | None
) -> None:
    """Slurm's commands are stand-ins here."""
    for name, text in (("scontrol", SCONTROL), ("squeue", SQUEUE)):
        (command.folder / name).write_text(text)
        (command.folder / name).chmod(0o755)
    calls = command.folder / "calls"
    command.environment |= {"PATH": f"{command.folder}:{os.environ['PATH']}", "CALLS": str(calls), "STATE": state}
    command.environment |= {"SLURM_JOB_ID": "7"}
    running = at_step(command, 3, *words, "launcher.requeue=true", faults="wait3")
    running.send_signal(number)
    out, _ = running.communicate(timeout=20)
    assert (told or "1 point: 1 preempted") in out.splitlines()[-1]
    assert calls.exists() == (told == "job 7 is requeued")
    assert not calls.exists() or calls.read_text() == "requeue 7\n"


def test_attempts_that_get_no_further_are_counted(tmp_path: Path) -> None:
    for number, reached in enumerate((5, 5, 9, 3, 9)):
        folder = tmp_path / "attempts" / str(number)
        folder.mkdir(parents=True)
        steps = [make_step(step, "measured", EPOCH, 0.1, 100) for step in range(1, reached + 1)]
        (folder / "events.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
        assert fruitless(tmp_path) == (0, 1, 0, 1, 2)[number]


def test_a_folder_in_which_nothing_was_started_is_taken_again(tmp_path: Path) -> None:
    assert following(tmp_path) == 0
    logs = tmp_path / "attempts" / "0" / "logs"
    logs.mkdir(parents=True)
    assert following(tmp_path) == 0
    (logs / "launcher.log").touch()
    assert following(tmp_path) == 1


@pytest.mark.slow
def test_the_ledger_of_a_point_that_was_started_again_is_whole(command: Command) -> None:
    """The real worker, from the first step again for want of checkpoints."""
    words = ("run", "gpus_per_node=2", *QUICK, "steps=40", "launcher.max_restarts=1")
    running = command.start(*words)
    wait_for(lambda: 10 in steps(command, 0))
    (point,) = command.points().values()
    (second,) = (process for process in marked(str(point)) if process.environ().get("RANK") == "1")
    second.kill()
    out, err = running.communicate(timeout=100)
    assert running.returncode == 0, out + err
    read = read_point(point)
    tiled = ledger(read.launches, read.events)
    assert [record["step"] for record in kept(read.events)] == list(range(1, 41))
    assert (tiled.attempts, tiled.kept_steps, doubts(tiled)) == (2, 40, [])
    assert tiled.lost_steps >= 10 and tiled.buckets["step_lost"] > 0
    first, again = launches(command)
    assert tiled.buckets["restart_gap"] == pytest.approx(again["start"] - first["end"])
    assert sum(tiled.buckets.values()) == pytest.approx(tiled.wall_s)
    assert "ok (attempt 1)" in command("status", "default").stdout


def test_ranks_that_somebody_else_has_told_to_end_are_started_again(command: Command) -> None:
    """As by scancel, which signals a job's steps and not its controller."""
    running = at_step(command, 3, *KEPT, "launcher.max_restarts=1", faults="wait3")
    (torchrun,) = (p for p in psutil.Process(running.pid).children() if "torch.distributed.run" in p.cmdline())
    torchrun.send_signal(signal.SIGUSR2)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 0, out + err
    assert "preempted: told to end by SIGUSR2; stopped after step 3, checkpoint written" in out
    assert steps(command, 1)[0] == 4


def test_ctrl_c_does_not_wait_for_a_checkpoint(command: Command) -> None:
    running = command.start(*WORDS, *KEPT, stand_in="stubborn")
    wait_for(lambda: len(command.processes()) >= 5)
    time.sleep(0.5)
    running.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert running.poll() is None
    begin = time.monotonic()
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=15)
    assert time.monotonic() - begin < 10
    assert (running.returncode, status(command)["reason"]) == (130, "ended by Ctrl-C of the controller")
