"""A tree of processes ends whole, whatever its members think of it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.environment import MARKER, build
from launch.local import Tree, end_marked, marked

IGNORE = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
# A child in a session of its own, whose own child is in another one: neither group nor parent leads to them.
FAMILY = f"""{IGNORE}
depth = int(sys.argv[1])
if depth:
    subprocess.Popen([sys.executable, __file__, str(depth - 1)], start_new_session=True)
if depth < int(sys.argv[2]):
    time.sleep(600)
"""


def tree(folder: Path, depth: int, staying: int) -> Tree:
    """Start a family; members of less than `staying` generations stay, the others leave at once."""
    script = folder / "family.py"
    script.write_text(FAMILY.replace("str(depth - 1)]", "str(depth - 1), sys.argv[2]]"))
    environment = build({}, False, folder, folder, 0, 10)
    return Tree([sys.executable, str(script), str(depth), str(staying)], environment, folder / "log")


def wait_for_members(folder: Path, number: int) -> None:
    until = time.monotonic() + 20
    while len(marked(str(folder))) < number:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_stubborn_family_is_gone_within_ten_seconds(tmp_path: Path) -> None:
    started = tree(tmp_path, depth=2, staying=3)
    wait_for_members(tmp_path, 3)
    start = time.monotonic()
    assert started.end() == []
    assert time.monotonic() - start < 10
    assert marked(str(tmp_path)) == []
    assert started.poll() == -9


def test_what_a_command_leaves_behind_is_ended_too(tmp_path: Path) -> None:
    started = tree(tmp_path, depth=1, staying=1)
    assert started.process.wait(20) == 0
    wait_for_members(tmp_path, 1)
    start = time.monotonic()
    assert started.end() == []
    assert time.monotonic() - start < 3
    assert marked(str(tmp_path)) == []


def test_a_cooperative_command_is_not_killed(tmp_path: Path) -> None:
    environment = build({}, False, tmp_path, tmp_path, 0, 10)
    program = (
        f"{IGNORE}; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print('up', flush=True); time.sleep(600)"
    )
    started = Tree([sys.executable, "-c", program], environment, tmp_path / "log")
    while "up" not in (tmp_path / "log").read_text():
        time.sleep(0.05)
    assert started.end() == []
    assert started.poll() == 3


def test_only_marked_processes_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARKER, str(tmp_path / "other"))
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert end_marked(str(tmp_path)) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
