"""How an attempt is judged by what its processes left behind. The texts are torchrun's own, of real failures."""

import json
import os
from pathlib import Path

import pytest
from run_dirs import make_attempt, make_config

from harness.study.outcome import Outcome, outcome

RESET = "RuntimeError: [/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:1: Connection reset by peer."
PRINTED = """\
harness.worker FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-22_09:04:39
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 8366)  (SIGTERM)
  error_file: {file}
  traceback : Signal 15 (SIGTERM) received by PID 8366
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-22_09:04:39
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 8367)  ({name})
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 8367
============================================================
"""


class Attempt:
    """An attempt's folder as failures leave it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ranks = folder / "logs" / "node0" / "slug_x1" / "attempt_0"
        self.ranks.mkdir(parents=True)

    def raises(self, rank: int, message: str, at: float) -> None:
        path = self.ranks / str(rank) / "error.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"message": {"message": message, "extraInfo": {"timestamp": "1"}}}))
        os.utime(path, (at, at))

    def dies(self, code: int, said: str = "", name: str = "SIGKILL") -> None:
        (self.ranks / "1").mkdir(exist_ok=True)
        (self.ranks / "1" / "stderr.log").write_text(said)
        (self.folder / "logs" / "launcher.log").write_text(PRINTED.format(code=code, name=name, file="<N/A>"))

    def records(self, ended: bool) -> None:
        _, events = make_attempt(make_config(), [0.1], ended=ended)
        (self.folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return Attempt(tmp_path)


def judged(attempt: Attempt, exit_code: int) -> Outcome:
    return outcome(attempt.folder, exit_code, ["here"], 4)


def test_ok_needs_both_the_exit_code_and_the_end_record(attempt: Attempt) -> None:
    attempt.records(ended=True)
    assert judged(attempt, 0) == Outcome("ok")
    attempt.records(ended=False)
    assert judged(attempt, 0).status == "failed"


def test_a_failure_after_the_end_is_no_ok(attempt: Attempt) -> None:
    attempt.records(ended=True)
    attempt.raises(0, "ValueError: late", at=1)
    assert judged(attempt, 1) == Outcome("failed", "rank 0: ValueError: late (after the end of training)", 0, "here")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", "oom"),
        ("RuntimeError: CUDA error: CUDA out of memory", "oom"),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory", "oom"),
        ("Diverged: loss is nan at step 7", "diverged"),
        ("DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:94", "comm_error"),
        ("DistNetworkError: The client socket has timed out", "comm_error"),
        (RESET, "comm_error"),
        ("ValueError: the parameters diverged in memory", "failed"),
    ],
)
def test_the_exception_gives_the_status(attempt: Attempt, message: str, status: str) -> None:
    attempt.raises(3, f"{message}\nmore lines", at=1)
    assert judged(attempt, 1) == Outcome(status, f"rank 3: {message}", 3, "here")


def test_a_rank_of_another_host_is_named_with_it(tmp_path: Path) -> None:
    """torchrun's folders have a rank's number on its own host."""
    error = tmp_path / "logs" / "node2" / "slug_x1" / "attempt_0" / "1" / "error.json"
    error.parent.mkdir(parents=True)
    error.write_text(json.dumps({"message": {"message": "ValueError: x"}}))
    ended = outcome(tmp_path, 1, ["a", "b", "c"], 2)
    assert ended == Outcome("failed", "rank 5 on c: ValueError: x", 5, "c")


def test_the_earliest_rank_decides(attempt: Attempt) -> None:
    attempt.raises(0, RESET, at=10.002)
    attempt.raises(2, "OutOfMemoryError: CUDA out of memory", at=10.001)
    attempt.raises(1, "DistBackendError: NCCL error", at=10.003)
    assert (judged(attempt, 1).status, judged(attempt, 1).rank) == ("oom", 2)


def test_a_rank_that_was_killed_outweighs_the_others_lost_connections(attempt: Attempt) -> None:
    attempt.raises(0, RESET, at=10)
    attempt.dies(-9)
    assert judged(attempt, 1) == Outcome("failed", "rank 1: ended with SIGKILL", 1, "here")


def test_of_two_hosts_the_one_whose_rank_died_first_is_named(attempt: Attempt) -> None:
    """Each host's torchrun has its own log; the other's ranks are aborted by NCCL's watchdog afterwards."""
    logs = attempt.folder / "logs"
    killed = PRINTED.format(code=-9, name="SIGKILL", file="x").replace("rank      : 1 ", "rank      : 3 ")
    aborted = PRINTED.format(code=-6, name="SIGABRT", file="x").replace("09:04:39", "09:04:41")
    (logs / "node0.log").write_text(aborted)
    (logs / "node1.log").write_text(killed)
    ended = outcome(attempt.folder, 1, ["a", "b"], 2)
    assert ended == Outcome("failed", "rank 3 on b: ended with SIGKILL", 3, "b")


def test_of_ranks_that_all_lost_a_peer_but_one_that_one_went_first(attempt: Attempt) -> None:
    """The torchrun of a rank that was killed may itself be ended before it says so."""
    for rank in (0, 3):
        attempt.raises(rank, RESET, at=10 + rank)
    assert judged(attempt, 1) == Outcome("comm_error", f"rank 0: {RESET}", 0, "here"), "two are silent"
    attempt.raises(1, RESET, at=9)
    reason = "rank 2: ended without a word; every other rank then lost its peers"
    assert judged(attempt, 1) == Outcome("failed", reason, 2, "here")
    attempt.dies(-6, "[rank1]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)\n", "SIGABRT")
    assert judged(attempt, 1).rank == 1


def test_a_rank_that_left_a_dump_did_not_go_without_a_word(attempt: Attempt) -> None:
    for rank in (0, 1, 3):
        attempt.raises(rank, RESET, at=10 + rank)
    (attempt.folder / "flight").mkdir()
    (attempt.folder / "flight" / "rank2.json").write_text(json.dumps({"rank": 2, "cause": "exception"}))
    assert (judged(attempt, 1).status, judged(attempt, 1).rank) == ("comm_error", 0)


def test_an_abort_by_the_watchdog_is_communication(attempt: Attempt) -> None:
    attempt.dies(-6, "[rank1]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)\n", "SIGABRT")
    assert (judged(attempt, 1).status, judged(attempt, 1).rank) == ("comm_error", 1)


def test_a_rank_that_exits_silently_is_named_with_its_last_words(attempt: Attempt) -> None:
    attempt.dies(3, "some\nModuleNotFoundError: No module named 'x'\n\n", "")
    expected = "rank 1: ended with exit code 3: ModuleNotFoundError: No module named 'x'"
    assert judged(attempt, 1) == Outcome("failed", expected, 1, "here")


@pytest.mark.parametrize(("code", "name"), [(-11, "SIGSEGV"), (-34, "SIGRTMIN"), (-35, "signal 35")])
def test_a_rank_that_a_signal_has_ended_is_told_with_it(attempt: Attempt, code: int, name: str) -> None:
    attempt.dies(code, name="?")
    assert judged(attempt, 1) == Outcome("failed", f"rank 1: ended with {name}", 1, "here")


def test_a_launcher_that_fails_itself_is_quoted(attempt: Attempt) -> None:
    (attempt.folder / "logs" / "launcher.log").write_text("No module named torch\n")
    assert judged(attempt, 1) == Outcome("failed", "the launcher ended with exit code 1: No module named torch")


def test_torn_files_are_no_reason_to_stop(attempt: Attempt) -> None:
    attempt.raises(0, "ValueError: x", at=1)
    (attempt.ranks / "0" / "error.json").write_text('{"mess')
    (attempt.folder / "events.jsonl").write_text('{"kind": "step"}\n{"kind": "st\n{"kind": "e')
    assert judged(attempt, -6).status == "failed"


UNREACHED = """\
srun: cluster configuration lacks support for cpu binding
srun: error: Task launch for StepId=49.36 failed on node n1: Communication connection failure
srun: error: Application launch failed: Communication connection failure
srun: Force Terminated StepId=49.36
"""
UNENDED = """\
srun: First task exited 20s ago
srun: StepId=56.4 task 1: running
srun: StepId=56.4 tasks 0,2: exited abnormally
"""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (UNREACHED, "n1: nothing could be started there: Communication connection failure"),
        (UNENDED, "n1: did not end with the others; it may be down or cut off"),
    ],
)
def test_a_host_that_is_gone_outweighs_what_its_peers_say(tmp_path: Path, said: str, reason: str) -> None:
    attempt = Attempt(tmp_path)
    attempt.raises(0, RESET, at=10)
    (tmp_path / "logs" / "launcher.log").write_text(said)
    (tmp_path / "logs" / "node0.log").write_text("[W1122 22:31:38.3 socket.cpp:207] no hostname of the client\n")
    assert outcome(tmp_path, 1, ["n0", "n1", "n2"], 2) == Outcome("failed", reason, host="n1")


def test_remarks_are_not_taken_for_a_reason(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "launcher.log").write_text("n1: sees no meeting.json\nsrun: Force Terminated StepId=49.24\n")
    (tmp_path / "logs" / "node0.log").write_text("")
    ended = outcome(tmp_path, 143, ["n0", "n1"], 2)
    assert ended.reason == "the launcher ended with exit code 143: n1: sees no meeting.json"


def test_running_out_of_memory_names_the_snapshot_of_the_rank_that_did(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "attempts" / "0")
    attempt.raises(1, "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", at=10)
    assert outcome(attempt.folder, 1, ["here"], 2).reason == (
        "rank 1: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    )
    (attempt.folder / "profile").mkdir()
    for rank in (0, 1):
        (attempt.folder / "profile" / f"oom.rank{rank}.pickle").touch()
    ended = outcome(attempt.folder, 1, ["here"], 2)
    assert ended.status == "oom"
    assert ended.reason.endswith("2.00 GiB; what it held is in attempts/0/profile/oom.rank1.pickle")
