"""A disk that is full, read-only or gone ends a point with a reason, and never a study."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from study_command import QUICK, Command, wait_for

from harness.analysis.read import read_lines
from harness.study import lease
from harness.study.attempt import TAKEN_OVER
from harness.study.disk import RESERVE, conclude, reserve
from harness.study.outcome import Outcome
from launch.local import marked

WORDS = ("run", "-m", "seed=0,1", "steps=400", *(word for word in QUICK if not word.startswith("steps=")))
MIB = 2**20

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own can be mounted by root alone")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Command]:
    """A working folder on a disk of four MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4 * MIB}", "tmpfs", folder], check=True)
    yield Command(folder, {"TMPDIR": str(tmp_path)})
    while subprocess.run(["umount", "-l", folder], capture_output=True).returncode == 0:
        continue


def recorded(command: Command) -> list[str]:
    """The kinds of what the first point of a study has recorded so far."""
    for path in command.folder.rglob("events.jsonl"):
        return [record["kind"] for record in read_lines(path)[0]]
    return []


def fill(path: Path) -> None:
    with suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@needs_root
def test_a_full_disk_ends_points_with_a_reason_and_with_room_again_the_same_command_goes_on(disk: Command) -> None:
    running = disk.start(*WORDS)
    wait_for(lambda: recorded(disk).count("step") >= 10)
    fill(disk.folder / "filled")
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (1, "")
    assert out.endswith("2 points: 2 failed\n")
    for slug, status in disk.status().items():
        assert status["status"] == "failed"
        assert status["reason"].startswith(f"the disk of {disk.points()[slug]} is full; ")
        assert "launch.json" not in status["reason"], "what could not be written either hides no reason"
    [path] = disk.folder.rglob("events.jsonl")
    records, torn = read_lines(path)
    assert torn is None
    assert [record["kind"] for record in records].count("step") >= 10
    (disk.folder / "filled").unlink()
    again = disk(*WORDS, stand_in="ok")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.count("was failed, kept as") == 2
    assert len([status for status in disk.status().values() if status["status"] == "ok"]) == 2


@needs_root
def test_a_disk_that_becomes_read_only_fails_points_and_not_the_controller(disk: Command) -> None:
    running = disk.start(*WORDS, stand_in="endless")
    wait_for(lambda: list(disk.folder.rglob("launch.json")))
    # what is open stays writable, so that the rank goes on and its controller is the first to meet it
    studies = disk.folder / "studies"
    subprocess.run(["mount", "--bind", studies, studies], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", studies], check=True)
    for process in (process for path in disk.points().values() for process in marked(str(path))):
        process.kill()
    out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (1, "")
    assert "Read-only file system" in out
    assert out.endswith("2 points: 2 failed\n")


def test_a_rank_that_cannot_record_any_more_ends_with_the_files_name(tmp_path: Path) -> None:
    # no file may grow beyond this, as under a quota
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (80_000,) * 2); "
    limit += "os.execv(sys.executable, sys.argv[1:])"
    command = Command(tmp_path, {})
    words = ("run", *WORDS[3:])
    whole = [sys.executable, "-c", limit, sys.executable, "-m", "harness.cli", *words]
    ended = subprocess.run(whole, cwd=tmp_path, env=command.variables(), capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, "")
    for slug, status in command.status().items():
        path = command.points()[slug] / "attempts" / "0" / "events.jsonl"
        assert (status["status"], status["rank"]) == ("failed", 0)
        assert status["reason"] == f"rank 0: OSError: [Errno 27] File too large: '{path}'"
        records, torn = read_lines(path)
        assert torn is None
        assert "step" in {record["kind"] for record in records}


@pytest.mark.slow
def test_a_study_that_is_moved_away_ends_its_point_within_a_heartbeat(tmp_path: Path) -> None:
    command = Command(tmp_path, {})
    ended = command("run", "-m", "seed=0,1", *QUICK, stand_in="moved", seconds=60)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "is gone" in ended.stdout
    assert ended.stdout.endswith("2 points: 2 failed\n")


def test_a_point_whose_folder_is_gone_has_failed_and_was_not_taken_over(tmp_path: Path) -> None:
    run_dir = tmp_path / "point"
    run_dir.mkdir()
    held = lease.acquire(run_dir)
    assert held is not None
    run_dir.rename(tmp_path / "elsewhere")
    assert not held.ours()
    assert conclude(held, TAKEN_OVER, 0) == Outcome("failed", f"{run_dir} is gone")
    (run_dir / "checkpoints").mkdir(parents=True)  # a rank that still runs makes what it writes into
    assert conclude(held, TAKEN_OVER, 0) == Outcome("failed", f"{run_dir} is gone")
    held.release()


def test_a_points_last_words_have_their_space_kept_and_without_it_the_end_is_told_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    held = lease.acquire(tmp_path)
    assert held is not None
    with held:
        reserve(tmp_path)
        assert conclude(held, Outcome("ok"), 0) == Outcome("ok")
        assert not (tmp_path / RESERVE).exists()
        assert json.loads((tmp_path / "status.json").read_text())["status"] == "ok"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            told = conclude(held, Outcome("timeout", "still running"), 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told.status == "failed"
    assert told.reason == (
        f"how it ended could not be written ([Errno 27] File too large: '{tmp_path}/status.json'); "
        "it was timeout: still running"
    )
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "ok"
