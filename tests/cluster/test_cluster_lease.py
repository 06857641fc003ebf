"""One study, controllers on several hosts that share nothing but its folder."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import HOSTS, Cluster
from study_command import QUICK, STAND_IN, TESTS

pytestmark = pytest.mark.cluster


def start(cluster: Cluster, host: str, root: Path, stand_in: str) -> subprocess.Popen[str]:
    """A controller on a host, with a worker that only behaves."""
    path = f"PYTHONPATH={cluster.variables['PYTHONPATH']}:{TESTS}"
    program = ("env", path, f"STANDIN={stand_in}", sys.executable, "-c", STAND_IN)
    words = ("run", "-m", f"root={root}", "seed=0,1,2", *QUICK)
    return subprocess.Popen(
        ["bash", str(HOSTS), "on", host, *program, *words],
        env=cluster.variables,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def statuses(root: Path) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in root.glob("default/points/*/status.json")]


def test_controllers_on_two_hosts_at_once_run_each_point_once(cluster: Cluster, tmp_path: Path) -> None:
    both = [start(cluster, host, tmp_path, "ok") for host in ("node1", "node2")]
    said = [process.communicate(timeout=120) for process in both]
    assert [(process.returncode, err) for process, (_, err) in zip(both, said, strict=True)] == [(0, "")] * 2
    assert statuses(tmp_path) == ["ok"] * 3
    launched = [json.loads(path.read_text())["host"] for path in tmp_path.rglob("launch.json")]
    assert sorted(set(launched)) == ["node1", "node2"]
    assert len(launched) == 3
    assert sum(out.count("started, 1 rank") for out, _ in said) == 3
    assert not list(tmp_path.rglob("*lease*"))


def test_a_point_that_died_on_another_host_is_held_for_a_minute_and_then_free(cluster: Cluster, tmp_path: Path) -> None:
    first = start(cluster, "node1", tmp_path, "endless")
    until = time.monotonic() + 60
    while not list(tmp_path.rglob("launch.json")):
        assert time.monotonic() < until
        time.sleep(0.05)
    [held] = tmp_path.rglob("lease.json")
    # the controller with all that it has started
    cluster.run("on", "node1", "pkill", "-9", "-f", str(tmp_path))
    first.communicate(timeout=30)
    out, _ = start(cluster, "node2", tmp_path, "ok").communicate(timeout=120)
    assert f"{held.parent.name}: skipped, held by process " in out
    assert " on node1" in out
    # as after a minute of silence
    os.utime(held, (time.time() - 61, time.time() - 61))
    out, err = start(cluster, "node2", tmp_path, "ok").communicate(timeout=120)
    assert err == ""
    assert f"{held.parent.name}: was running, kept as {held.parent.name}~1" in out
    assert out.count("skipped, ok already") == 2
    assert sorted(statuses(tmp_path)) == ["failed", *["ok"] * 3]
