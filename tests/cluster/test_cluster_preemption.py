"""Points that Slurm or a failure ends before they are done, on a real Slurm: they end ok after later attempts."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lab import SCALE, Cluster

from harness.analysis.goodput import doubts, ledger
from harness.analysis.read import Point, read_point
from harness.analysis.steps import kept

pytestmark = pytest.mark.cluster

HARNESS = (sys.executable, "-m", "harness.cli")
WORDS = ("model=tiny", "gpus_per_node=2", "seq_len=64", "steps=400", "record.wandb=disabled", "preflight=false")
CHECKPOINTS = ("checkpoint=steps", "checkpoint.every=50")


def submitted(cluster: Cluster, root: Path, *words: str) -> tuple[str, Path]:
    """A point's job and run directory; the job asks for its next start."""
    asked = ("launcher=sbatch", "launcher.requeue=true", f"root={root}", "study=again", *WORDS, *CHECKPOINTS)
    cluster.slurm(*HARNESS, "run", *asked, *words, cwd=root)
    (run_dir,) = (root / "again" / "points").iterdir()
    return str(status(run_dir)["job"]), run_dir


def status(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "status.json").read_text())
    return found


def until(happened: Callable[[], bool], run_dir: Path, timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < end, [path.read_text()[-3000:] for path in run_dir.glob("job-*.log")]
        time.sleep(0.1)


def at(run_dir: Path, step: int, attempt: int = 0, timeout_s: float = 120.0) -> None:
    """Until an attempt has recorded a step."""
    events = run_dir / "attempts" / str(attempt) / "events.jsonl"
    until(lambda: events.exists() and f'"step": {step},' in events.read_text(), run_dir, timeout_s)


def whole(run_dir: Path, attempts: int) -> Point:
    """The point, once it is ok: every step kept once, and its wall-clock without a gap that nobody can account for."""
    until(lambda: status(run_dir)["status"] == "ok", run_dir, 240)
    point = read_point(run_dir)
    assert len(point.launches) == attempts
    assert [record["step"] for record in kept(point.events)] == list(range(1, point.config.steps + 1))
    tiled = ledger(point.launches, point.events)
    assert sum(tiled.buckets.values()) == pytest.approx(tiled.wall_s)
    assert (doubts(tiled), tiled.kept_steps) == ([], point.config.steps)
    # a launch record lacks its end where the controller was killed too
    ended = [launch["end"] for launch in point.launches[:-1]]
    if None not in ended:
        gaps = (after["start"] - end for end, after in zip(ended, point.launches[1:], strict=True))
        assert tiled.buckets["restart_gap"] == pytest.approx(sum(gaps))
    assert tiled.buckets["restart_gap"] > 0
    return point


def test_a_job_that_is_signalled_goes_on_when_slurm_starts_it_anew(cluster: Cluster, tmp_path: Path) -> None:
    job, run_dir = submitted(cluster, tmp_path, "nodes=2", "steps=160", "checkpoint.every=10")
    at(run_dir, 20)
    cluster.slurm("scancel", "--signal=USR2", "--batch", job)
    until(lambda: status(run_dir)["status"] in ("preempted", "queued"), run_dir)
    said = "told to end by SIGUSR2; stopped after step "
    assert status(run_dir)["reason"].startswith(said) and status(run_dir)["reason"].endswith(", checkpoint written")
    point = whole(run_dir, attempts=2)
    (stopped,) = (record["step"] for record in point.events[0] if record["kind"] == "preempted")
    assert min(record["step"] for record in point.events[1] if record["kind"] == "step") == stopped + 1


@pytest.mark.slow
def test_a_point_that_is_longer_than_its_job_may_be_goes_on_in_the_next(cluster: Cluster, tmp_path: Path) -> None:
    """Slurm looks at jobs' times now and then: the signal may come half a minute early."""
    slow = ("faults=slow", "faults.step=2", "faults.seconds=0.2")
    job, run_dir = submitted(cluster, tmp_path, "nodes=1", "launcher.time=2", "launcher.signal_lead_s=45", *slow)
    until(lambda: status(run_dir)["status"] == "queued" and status(run_dir)["attempt"] == 0, run_dir)
    assert status(run_dir)["reason"].startswith("told to end by SIGTERM; stopped after step ")
    assert status(run_dir)["job"] == job
    until(lambda: status(run_dir)["status"] == "ok", run_dir, 280)
    point = whole(run_dir, attempts=len(list((run_dir / "attempts").iterdir())))
    assert min(record["step"] for record in point.events[1] if record["kind"] == "step") == last(run_dir, 0) + 1


@pytest.mark.slow
def test_a_study_in_one_allocation_goes_on_in_the_next(cluster: Cluster, tmp_path: Path) -> None:
    words = (*WORDS, *CHECKPOINTS, "launcher.requeue=true", f"root={tmp_path}", "study=again")
    job = cluster.submit("--nodes=2", "--time=10", "--signal=B:USR2@60", str(SCALE), *words, cwd=tmp_path)
    points = tmp_path / "again" / "points"
    until(lambda: len(list(points.glob("*/config.yaml"))) == 2, tmp_path)
    until(lambda: any('"step": 100,' in path.read_text() for path in points.glob("*/attempts/0/events.jsonl")), points)
    cluster.slurm("scancel", "--signal=USR2", "--batch", job)
    cluster.wait([job])
    run_dirs = {read_point(path).config.nodes: path for path in points.iterdir()}
    attempts = {nodes: len(list((path / "attempts").iterdir())) for nodes, path in run_dirs.items()}
    assert sorted(attempts.values()) == [1, 2]
    interrupted = max(attempts, key=lambda nodes: attempts[nodes])
    whole(run_dirs[interrupted], attempts=2)
    assert status(run_dirs[3 - interrupted])["status"] == "ok"


@pytest.mark.slow
def test_a_job_that_is_cancelled_is_not_started_anew(cluster: Cluster, tmp_path: Path) -> None:
    job, run_dir = submitted(cluster, tmp_path, "nodes=1", "steps=100000")
    at(run_dir, 100)
    cluster.slurm("scancel", job)
    cluster.wait([job])
    until(lambda: status(run_dir)["status"] == "preempted", run_dir)
    assert not cluster.slurm("squeue", "-h", "-j", job, check=False)


@pytest.mark.slow
def test_a_job_that_a_person_requeues_goes_on_with_its_point(cluster: Cluster, tmp_path: Path) -> None:
    job, run_dir = submitted(cluster, tmp_path, "nodes=2", "launcher.requeue=false", "launcher.max_restarts=1")
    at(run_dir, 100)
    cluster.slurm("scontrol", "update", f"JobId={job}", "Requeue=1")
    cluster.slurm("scontrol", "requeue", job)
    whole(run_dir, attempts=2)


@pytest.mark.slow
@pytest.mark.parametrize("lose", [("crash",), ("link", "down")], ids=["crashed", "cut-off"])
def test_a_spare_host_takes_the_place_of_one_that_is_lost(
    cluster: Cluster, tmp_path: Path, lose: tuple[str, ...]
) -> None:
    """Of one that is cut off nobody hears; Slurm gives it up after a minute."""
    words = ("nodes=2", "launcher.max_nodes=3", "launcher.max_restarts=5")
    job, run_dir = submitted(cluster, tmp_path, *words)
    at(run_dir, 100)
    first, second, spare = hosts(cluster, job)
    with lost(cluster, job, run_dir, second, *lose):
        point = whole(run_dir, attempts=2)
    assert [launch["hosts"] for launch in point.launches] == [[first, second], [first, spare]]


@pytest.mark.slow
def test_fewer_hosts_keep_the_global_batch(cluster: Cluster, tmp_path: Path) -> None:
    """Of four that share out a step three cannot, and two do."""
    words = ("nodes=4", "gpus_per_node=1", "launcher.min_nodes=1", "launcher.max_restarts=5")
    job, run_dir = submitted(cluster, tmp_path, *words)
    at(run_dir, 100)
    with lost(cluster, job, run_dir, hosts(cluster, job)[3], "crash"):
        point = whole(run_dir, attempts=2)
    assert [len(launch["hosts"]) for launch in point.launches] == [4, 2]
    assert {record["tokens"] for record in kept(point.events)} == {4 * 64}


@contextmanager
def lost(cluster: Cluster, job: str, run_dir: Path, host: str, how: str, *words: str) -> Iterator[None]:
    """A host that is away, and at the end there again, idle as all others are."""
    cluster.run(how, host, *words)
    try:
        yield
    finally:
        if how == "link":
            cluster.run("link", host, "up")
            # what was cut off has not heard of its job's end
            cluster.run("crash", host)
        cluster.run("boot", host)
        cluster.slurm("scancel", job, check=False)
        cluster.wait([job])
        until(lambda: cluster.slurm("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").count("node") == 4, run_dir, 280)


def hosts(cluster: Cluster, job: str) -> list[str]:
    """The hosts that a job has."""
    return cluster.slurm("scontrol", "show", "hostnames", cluster.slurm("squeue", "-h", "-j", job, "-o", "%N")).split()


def last(run_dir: Path, attempt: int) -> int:
    """The last step that an attempt has recorded."""
    (stopped,) = (record["step"] for record in read_point(run_dir).events[attempt] if record["kind"] == "preempted")
    return int(stopped)
