"""Points that fail, hang, refuse to end or are interrupted, on real torchrun trees with a worker that only behaves."""

import hashlib
import json
import signal
import time
from pathlib import Path

import psutil
import pytest
from study_command import QUICK, Command, wait_for

from harness.heartbeat import holder
from harness.study import lease
from launch.local import marked


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {})


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_ends_a_stubborn_tree_and_tells_the_truth(
    command: Command, number: signal.Signals, code: int
) -> None:
    process = command.start("run", "-m", "gpus_per_node=2", "seed=0,1", *QUICK, stand_in="stubborn")
    # The launcher, two ranks, and what each of them has started.
    wait_for(lambda: len(command.processes()) >= 5)
    time.sleep(0.5)
    start = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=15)
    assert time.monotonic() - start < 10
    assert command.processes() == []
    assert process.returncode == code, err
    statuses = sorted((status["status"], status["reason"]) for status in command.status().values())
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert statuses == [("pending", None), ("preempted", f"ended by {name} of the controller")]
    assert "1 preempted, 1 not started" in out
    assert not list(command.folder.rglob("*lease*"))


def test_a_timeout_ends_everything_before_the_next_point_starts(command: Command) -> None:
    words = ("run", "-m", "gpus_per_node=2", "seed=0,1", "launcher.timeout_s=4", *QUICK)
    ended = command(*words, stand_in="stubborn")
    assert ended.returncode == 1
    assert command.processes() == []
    assert {status["status"] for status in command.status().values()} == {"timeout"}
    assert "still running after launcher.timeout_s=4" in ended.stdout
    launches = [json.loads(path.read_text()) for path in command.folder.rglob("launch.json")]
    first, second = sorted(launches, key=lambda launch: launch["start"])
    assert first["end"] <= second["start"]


def test_what_a_dead_controller_left_running_is_ended_before_any_other_point_starts(command: Command) -> None:
    process = command.start("run", "study=first", "gpus_per_node=2", *QUICK, stand_in="stubborn")
    wait_for(lambda: len(command.processes()) >= 5)
    process.kill()
    process.communicate()
    ended = command("run", "study=second", *QUICK, stand_in="ok")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert command.processes() == []


def test_what_a_point_leaves_behind_is_gone_before_it_is_ok(command: Command) -> None:
    ended = command("run", *QUICK, stand_in="leaving")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert command.processes() == []
    assert "ok, 1,000 tokens/s, loss 4" in ended.stdout


@pytest.mark.parametrize(
    ("mode", "status", "reason"),
    [
        ("diverged", "diverged", "rank 1: Diverged: loss is nan at step 3"),
        ("comm", "comm_error", "rank 1: DistBackendError: NCCL error: unhandled system error"),
    ],
)
def test_an_ending_is_judged(command: Command, mode: str, status: str, reason: str) -> None:
    ended = command("run", "-m", "gpus_per_node=2", *QUICK, stand_in=mode)
    assert (ended.returncode, endings(command)) == (1, [(status, reason, 1)])


def endings(command: Command) -> list[tuple[str, str, int]]:
    """How each point has ended, and on which rank."""
    return [(found["status"], found["reason"], found["rank"]) for found in command.status().values()]


def test_one_bad_point_stops_no_study_and_failures_run_again(command: Command) -> None:
    words = ("run", "-m", "gpus_per_node=2", "seed=0,1", *QUICK)
    ended = command(*words, stand_in="exit")
    assert ended.returncode == 1
    assert endings(command) == [("failed", "rank 1: ended with exit code 7: nothing to be done", 1)] * 2
    ended = command(*words, stand_in="ok")
    assert ended.returncode == 0
    assert sorted(status["status"] for status in command.status().values()) == ["failed", "failed", "ok", "ok"]
    assert ended.stdout.count("was failed, kept as") == 2
    assert command("status", "default").stdout.startswith("study default: 2 ok")


def test_out_of_memory_is_skipped_for_the_same_environment_only(command: Command) -> None:
    words = ("run", "-m", "gpus_per_node=2", *QUICK)
    assert command(*words, stand_in="oom").returncode == 0
    reason = "rank 1: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB; "
    assert endings(command) == [("oom", f"{reason}activation_checkpointing=full or parallel=fsdp would fit", 1)]
    again = command(*words, stand_in="ok")
    assert "skipped, out of memory already, with the same code and environment" in again.stdout
    command.environment["NCCL_BUFFSIZE"] = "1048576"
    other = command(*words, stand_in="ok")
    assert "was oom, kept as" in other.stdout
    assert ": ok, " in other.stdout


def test_a_point_held_elsewhere_is_left_alone(command: Command) -> None:
    running = command.start("run", *QUICK, stand_in="endless")
    wait_for(lambda: command.processes())
    second = command("run", *QUICK, stand_in="ok")
    assert second.returncode == 0
    assert f"skipped, held by process {running.pid} on " in second.stdout
    assert f"running (process {running.pid} on " in command("status", "default").stdout
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=15)


def test_after_a_killed_controller_its_processes_end_and_the_point_runs_again(command: Command) -> None:
    running = command.start("run", "gpus_per_node=2", *QUICK, stand_in="stubborn")
    wait_for(lambda: len(command.processes()) >= 5)
    running.kill()
    running.communicate()
    left = command.processes()
    assert len(left) >= 5
    [path] = command.points().values()
    assert holder(path) is None
    assert "running (its controller has disappeared)" in command("status", "default").stdout
    assert "the point was running, but its controller has disappeared" in command("goodput", str(path)).stdout
    # that of a mirror which was killed as well
    (path / "mirror.json").write_text(json.dumps({"kind": "mirror", "state": "running", "records": 3}))
    ended = command("run", "gpus_per_node=2", *QUICK, stand_in="ok")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "was running, kept as" in ended.stdout
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left)
    old = command.status()[f"{path.name}~1"]
    assert (old["status"], old["reason"]) == ("failed", "its controller disappeared")
    mirrored = json.loads((path.with_name(f"{path.name}~1") / "mirror.json").read_text())
    assert (mirrored["state"], mirrored["reason"], mirrored["records"]) == ("failed", "the point was run again", 3)
    assert marked(str(path)) == []


def test_a_skipped_point_says_what_differs_in_nccls_environment(command: Command) -> None:
    command.environment |= {"NCCL_ALGO": "Ring", "HOME": str(command.folder)}
    assert command("run", *QUICK, stand_in="ok").returncode == 0
    assert ": skipped, ok already\n" in command("run", *QUICK, stand_in="ok").stdout
    command.environment["NCCL_ALGO"] = "Tree"
    content = b"NCCL_PROTO=Simple\n"
    (command.folder / ".nccl.conf").write_bytes(content)
    again = command("run", *QUICK, stand_in="ok")
    file = f"{command.folder}/.nccl.conf not set, now {hashlib.sha256(content).hexdigest()[:7]}"
    assert f": skipped, ok already (warning: {file}; NCCL_ALGO Ring, now Tree; rerun=true" in again.stdout
    [path] = command.points().values()
    (path / "env.json").write_text("{")
    assert f"ok already (warning: {path}/env.json: is no JSON" in command("run", *QUICK, stand_in="ok").stdout


def test_a_vanished_disk_fails_points_and_not_the_controller(command: Command) -> None:
    ended = command("run", "-m", "seed=0,1", *QUICK, stand_in="vanish")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "the controller met an error: [Errno 2]" in ended.stdout
    assert ended.stdout.count("No such file or directory") == 2
    assert ended.stdout.endswith("2 points: 2 failed\n")


def test_who_was_suspended_and_taken_over_changes_nothing_more(command: Command) -> None:
    running = command.start("run", *QUICK, stand_in="endless")
    wait_for(lambda: len(command.processes()) >= 2)
    running.send_signal(signal.SIGSTOP)
    [path] = command.points().values()
    (path / "lease.1.json").write_text(json.dumps({**lease.ourselves(), "host": "elsewhere"}))
    before = (path / "status.json").read_bytes()
    for process in command.processes():
        process.kill()
    running.send_signal(signal.SIGCONT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (1, "")
    assert "preempted" in out and "another controller took the point over" in out
    assert (path / "status.json").read_bytes() == before
    assert (path / "lease.1.json").exists()


def test_a_study_goes_on_when_nobody_listens(command: Command) -> None:
    running = command.start("run", "-m", "seed=0,1", *QUICK, stand_in="ok")
    assert running.stdout and running.stderr
    running.stdout.readline()
    running.stdout.close()
    assert running.wait(60) == 0
    assert running.stderr.read() == ""
    assert {status["status"] for status in command.status().values()} == {"ok"}
    for words in (("status", "default"), ("report", "default"), ("report", "default", "--json")):
        reader = command.start(*words)
        assert reader.stdout and reader.stderr
        reader.stdout.close()
        assert (reader.wait(60), reader.stderr.read()) == (0, "")


def test_records_that_lack_fields_end_no_study_and_are_a_warning_of_the_report(command: Command) -> None:
    ended = command("run", *QUICK, stand_in="lacking")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(command("report", "default", "--json").stdout)
    assert "skipped 10 records that lack loss" in document["points"][0]["warnings"]
