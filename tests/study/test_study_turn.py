"""Points in this process: errors of the disk where they are hard to bring about, and processes that nothing ends."""

import errno
import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from run_dirs import make_attempt, make_config
from study_command import QUICK, TESTS

from harness.study import attempt, controller, lease, rundir, running, turn
from harness.study.interruption import Interruption
from harness.study.outcome import Outcome
from harness.study.rundir import write_status
from launch import torchrun
from launch.environment import build

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchrun, "WORKER", "study_standin")
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("STANDIN", "ok")


def two_points(folder: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of a study of two points, and their statuses in the order in which they ran."""
    code = controller.run(["seed=0,1", f"root={folder}", *QUICK, *words], True)
    paths = sorted((folder / "default" / "points").glob("*/status.json"), key=lambda path: path.stat().st_mtime_ns)
    return code, [json.loads(path.read_text()) for path in paths]


def fails_once(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, match: str) -> None:
    """Let a writer find the disk full, the first time that it is to write a file of that name."""
    write, failed = getattr(module, name), []

    def full(path: Path, *rest: Any) -> None:
        if path.name == match and not failed:
            failed.append(path)
            raise FULL
        write(path, *rest)

    monkeypatch.setattr(module, name, full)


class Mirror:
    """A mirror that only notes its end, and what the status said then."""

    ends: list[str]

    def __init__(self, words: tuple[str, str], log: Path, served: bool) -> None:
        self.run_dir = Path(words[1])

    def finish(self, interruption: Interruption) -> None:
        self.ends.append(json.loads((self.run_dir / "status.json").read_text())["status"])


@pytest.mark.parametrize(
    ("module", "name", "file"),
    [
        (running, "write_json", "env.json"),
        (running, "write_text", "command.sh"),
        (attempt, "write_json", "launch.json"),
    ],
)
def test_a_full_disk_fails_its_point_and_the_next_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, file: str
) -> None:
    fails_once(monkeypatch, module, name, file)
    code, statuses = two_points(tmp_path)
    assert code == 1
    assert [status["status"] for status in statuses] == ["failed", "ok"]
    assert "No space left on device" in statuses[0]["reason"]
    assert not list(tmp_path.rglob("*lease*"))


def test_the_mirror_is_finished_whatever_happens_and_after_the_last_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Mirror.ends = []
    monkeypatch.setattr(running, "Mirror", Mirror)
    monkeypatch.setattr(controller, "send_report", lambda *_: None)
    fails_once(monkeypatch, attempt, "write_json", "launch.json")
    two_points(tmp_path, "record.wandb=offline")
    assert Mirror.ends == ["failed", "ok"]


def test_one_mirror_follows_all_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Mirror.ends = []
    monkeypatch.setattr(running, "Mirror", Mirror)
    monkeypatch.setattr(controller, "send_report", lambda *_: None)
    monkeypatch.setenv("STANDIN", "steps")
    monkeypatch.setenv("STANDIN_FAULTS", "kill3")
    words = ("launcher.max_restarts=1", "gpus_per_node=2", "record.wandb=offline")
    code = controller.run([f"root={tmp_path}", *QUICK, *words], False)
    assert (code, Mirror.ends) == (0, ["ok"])


@pytest.mark.parametrize(("seconds", "attempts"), [("100", 3), ("0.5", 1)])
def test_a_time_is_that_of_all_attempts_and_of_the_waits_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str, attempts: int
) -> None:
    deadlines = []

    def failed(*words: Any) -> Outcome:
        deadlines.append(words[7])
        return Outcome("failed", "so it is")

    monkeypatch.setattr(running, "run_attempt", failed)
    monkeypatch.setattr(running, "pause_s", lambda restarts: 1.0 if seconds == "0.5" else 0.0)
    words = (f"root={tmp_path}", *QUICK, "launcher.max_restarts=2", f"launcher.timeout_s={seconds}")
    assert controller.run([*words], False) == 1
    assert len(deadlines) == attempts
    assert len(set(deadlines)) == 1


def test_a_point_that_cannot_be_planted_at_first_is_planted_in_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_once(monkeypatch, rundir, "write_text", "config.yaml")
    code, statuses = two_points(tmp_path)
    assert (code, [status["status"] for status in statuses]) == (0, ["ok", "ok"])
    assert not list((tmp_path / "default").glob(".*"))


def test_points_whose_status_is_lost_or_damaged_keep_their_records_and_run_again(tmp_path: Path) -> None:
    """One point, four times over."""
    words = [f"root={tmp_path}", *QUICK]
    assert controller.run(words, False) == 0
    [path] = (tmp_path / "default" / "points").glob("*/status.json")
    events = path.parent / "attempts" / "0" / "events.jsonl"
    for number, damage in enumerate(["", "[]", '{"sta', None], 1):
        record = events.read_text()
        if damage is None:
            path.unlink()
        else:
            path.write_text(damage)
        assert controller.run(words, False) == 0
        assert json.loads(path.read_text())["status"] == "ok"
        old = path.parent.with_name(f"{path.parent.name}~{number}")
        assert (old / "attempts" / "0" / "events.jsonl").read_text() == record
        assert events.read_text().count('"kind": "end"') == 1


def test_a_writer_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        rundir.write_text(tmp_path / "folder", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_processes_that_nothing_ends_are_named_once(tmp_path: Path) -> None:
    class Stuck(attempt.Tree):
        left = [["process 7", "process 8"], ["process 7", "process 8"], ["process 8"], []]

        def end(self) -> list[str]:
            return self.left.pop(0) if self.left else []

    (tmp_path / "0" / "logs").mkdir(parents=True)
    said: list[str] = []
    environment = build({}, False, tmp_path, tmp_path, 0, 10)
    held = lease.acquire(tmp_path)
    assert held is not None
    with held:
        ended = attempt.run_attempt(
            tmp_path / "0",
            ["false"],
            lambda log: Stuck(["false"], environment, log),
            ["here"],
            1,
            0,
            0.0,
            None,
            held,
            Interruption(),
            lambda: None,
            said.append,
        )
    assert ended == Outcome("failed", "the launcher ended with exit code 1")
    assert said == ["waiting for what could not be ended: process 7, process 8"]


@pytest.mark.parametrize(
    ("trained", "expected"),
    [(False, Outcome("preempted", "ended by SIGTERM of the controller")), (True, Outcome("ok"))],
    ids=["before its end", "after its last step"],
)
def test_a_command_that_is_ended_with_the_controller_was_not_its_own_failure(
    tmp_path: Path, trained: bool, expected: Outcome
) -> None:
    """Slurm ends both at once, and the command may be gone before the signal is seen."""
    interruption = Interruption()

    class Faster(attempt.Tree):
        def end(self) -> list[str]:
            interruption.signal = signal.SIGTERM
            return []

    (tmp_path / "0" / "logs").mkdir(parents=True)
    if trained:
        _, events = make_attempt(make_config(), [0.1] * 29)
        (tmp_path / "0" / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    environment = build({}, False, tmp_path, tmp_path, 0, 10)
    held = lease.acquire(tmp_path)
    assert held is not None

    def start(log: Path) -> Faster:
        return Faster(["false"], environment, log)

    def nothing(*_: object) -> None:
        return None

    with held:
        ended = attempt.run_attempt(
            tmp_path / "0", ["false"], start, ["here"], 1, 0, 0.0, None, held, interruption, nothing, nothing
        )
    assert ended == expected


@pytest.mark.parametrize(
    ("status", "held", "left"), [("preempted", False, True), ("running", False, False), ("preempted", True, False)]
)
def test_what_runs_for_a_point_that_has_ended_is_a_leftover(
    tmp_path: Path, status: str, held: bool, left: bool
) -> None:
    write_status(tmp_path, status)
    with lease.acquire(tmp_path) if held else nullcontext():
        assert turn.deserted(tmp_path, tmp_path / "another") is left


def test_ranks_that_were_started_by_hand_are_not(tmp_path: Path) -> None:
    assert turn.deserted(tmp_path, tmp_path / "another") is False
