"""One holder at a time, whoever contends and whoever dies."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from run_dirs import validator
from study_command import QUICK, Command

from harness import heartbeat
from harness.study import lease

CONTENDERS = 6
# Every contender waits for the same moment, says whether it holds the point, and holds on until it is told.
CONTEND = """
import sys, time
from pathlib import Path
from harness.study import lease
time.sleep(max(0, float(sys.argv[2]) - time.time()))
held = lease.acquire(Path(sys.argv[1]))
print("held" if held else "no", flush=True)
sys.stdin.readline()
if held:
    held.release()
"""


def contend(run_dir: Path) -> list[str]:
    moment = str(time.time() + 1.5)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTEND, str(run_dir), moment],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(CONTENDERS)
    ]
    answers = [process.stdout.readline().strip() for process in processes if process.stdout]
    for process in processes:
        process.communicate("\n", timeout=10)
    return answers


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_lease(run_dir: Path, name: str = "lease.json", age: float = 0.0, **changes: object) -> None:
    path = run_dir / name
    path.write_text(json.dumps({**lease.ourselves(), **changes}))
    os.utime(path, (time.time() - age, time.time() - age))


def test_of_many_contenders_one_holds(tmp_path: Path) -> None:
    assert sorted(contend(tmp_path)) == ["held"] + ["no"] * (CONTENDERS - 1)
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_take_over_one_holds(tmp_path: Path) -> None:
    write_lease(tmp_path, host="elsewhere", age=heartbeat.STALE_S + 5)
    assert sorted(contend(tmp_path)) == ["held"] + ["no"] * (CONTENDERS - 1)
    assert list(tmp_path.iterdir()) == []


def test_a_held_point_is_not_given_twice_and_is_free_again_afterwards(tmp_path: Path) -> None:
    first = lease.acquire(tmp_path)
    assert first is not None
    assert lease.acquire(tmp_path) is None
    assert (heartbeat.holder(tmp_path) or {})["pid"] == os.getpid()
    first.release()
    assert heartbeat.holder(tmp_path) is None
    second = lease.acquire(tmp_path)
    assert second is not None
    second.release()


@pytest.mark.parametrize(
    ("age", "changes", "free"),
    [
        (0, {"host": "elsewhere"}, False),
        (59, {"host": "elsewhere"}, False),
        (61, {"host": "elsewhere"}, True),
        (61, {"namespace": "pid:[1]"}, True),
        (0, {"namespace": "pid:[1]", "pid": 2**22 + 1}, False),
        (0, {"boot": "another host's", "pid": 2**22 + 1}, False),
        (61, {"boot": "another host's"}, True),
        (0, {"pid": "dead"}, True),
        (0, {"started": psutil.Process().create_time() - 1000}, True),
        (3600, {}, False),
    ],
    ids=[
        "elsewhere",
        "nearly",
        "silent",
        "namespace",
        "other-pids",
        "namesake",
        "silent-namesake",
        "dead",
        "pid-used-again",
        "alive-but-stopped",
    ],
)
def test_whose_lease_can_be_taken(tmp_path: Path, age: float, changes: dict[str, object], free: bool) -> None:
    if changes.get("pid") == "dead":
        changes = {"pid": dead_pid()}
    write_lease(tmp_path, age=age, **changes)
    held = lease.acquire(tmp_path)
    assert (held is not None) == free
    if held is not None:
        assert [path.name for path in heartbeat.generations(tmp_path)] == ["lease.json", "lease.1.json"]
        held.release()


def test_the_heart_beats_and_notices_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    held = lease.acquire(tmp_path)
    assert held is not None
    os.utime(held.path, (1, 1))
    time.sleep(0.3)
    assert time.time() - held.path.stat().st_mtime < 5
    write_lease(tmp_path, "lease.1.json", host="elsewhere")
    time.sleep(0.3)
    assert held.lost
    held.release()
    assert (tmp_path / "lease.1.json").exists()


def test_a_lease_keeps_to_the_schema(tmp_path: Path) -> None:
    held = lease.acquire(tmp_path)
    assert held is not None
    validator().validate(json.loads(held.path.read_text()))
    held.release()


@pytest.mark.parametrize("name", ["lease.1.json", "lease.json"], ids=["outnumbered", "a-new-directory-of-the-name"])
def test_who_slept_notices_without_a_heartbeat_and_leaves_the_others_lease(tmp_path: Path, name: str) -> None:
    held = lease.acquire(tmp_path)
    assert held is not None
    assert held.ours()
    write_lease(tmp_path, name, host="elsewhere", token="theirs")
    assert not held.ours()
    held.release()
    assert json.loads((tmp_path / name).read_text())["token"] == "theirs"


def test_letting_go_removes_no_later_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = lease.acquire(tmp_path)
    assert held is not None
    monkeypatch.setattr(held, "ours", lambda: write_lease(tmp_path, "lease.1.json") or True)
    held.release()
    assert [path.name for path in heartbeat.generations(tmp_path)] == ["lease.1.json"]


def test_a_damaged_lease_goes_stale_like_any_other(tmp_path: Path) -> None:
    write_lease(tmp_path)
    (tmp_path / "lease.json").write_text('{"host')
    assert lease.acquire(tmp_path) is None
    os.utime(tmp_path / "lease.json", (1, 1))
    held = lease.acquire(tmp_path)
    assert held is not None
    held.release()


def test_a_clock_that_goes_ahead_of_the_file_servers_deserts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lease(tmp_path, host="elsewhere")
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 2 * heartbeat.STALE_S)
    assert not lease.deserted(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lease.json"]


def test_two_controllers_at_once_share_a_study_and_run_each_point_once(tmp_path: Path) -> None:
    command = Command(tmp_path, {})
    words = ("run", "-m", "seed=0,1,2", *QUICK)
    both = [command.start(*words, stand_in="ok") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [(process.returncode, err) for process, (_, err) in zip(both, said, strict=True)] == [(0, "")] * 2
    assert [status["status"] for status in command.status().values()] == ["ok"] * 3
    assert len(list(tmp_path.rglob("launch.json"))) == 3
    assert sum(out.count("started, 1 rank") for out, _ in said) == 3
    assert sum(out.count(": skipped, ") for out, _ in said) == 3
    assert not list(tmp_path.rglob("*lease*"))


def test_who_waits_for_a_point_can_be_told_to_stop(tmp_path: Path) -> None:
    with lease.acquire(tmp_path):
        begin = time.monotonic()
        assert lease.acquire_within(tmp_path, 60, lambda: time.monotonic() - begin > 0.5) is None
        assert time.monotonic() - begin < 30
