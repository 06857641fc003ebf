"""harness run launcher=sbatch on a real Slurm: a job a point, from a login node."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import HOSTS, Cluster
from study import RANKS_PER_HOST, WORDS

pytestmark = pytest.mark.cluster

HARNESS = (sys.executable, "-m", "harness.cli")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def asked(root: Path, *words: str) -> tuple[str, ...]:
    return (*HARNESS, "run", "-m", "launcher=sbatch", f"root={root}", "study=jobs", *WORDS, *words)


def queued(cluster: Cluster) -> list[str]:
    return cluster.slurm("squeue", "-h", "-o", "%i %j").splitlines()


def statuses(root: Path, points: str = "*") -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(root.glob(f"jobs/points/{points}/status.json"))]


def test_three_jobs_are_queued_at_once_and_status_follows_them_to_their_end(cluster: Cluster, root: Path) -> None:
    words = asked(root, "nodes=1,2,3", "steps=6", "preflight=false")
    begin = time.monotonic()
    said = cluster.slurm(*words, cwd=root)
    took = time.monotonic() - begin
    assert took < 5, "three points were submitted, none was waited for"
    assert said.endswith("3 points: 3 queued")
    told = statuses(root)
    assert len({status["job"] for status in told}) == 3
    watched = cluster.slurm(*HARNESS, "watch", "jobs", f"--root={root}", cwd=root)
    assert [status["status"] for status in statuses(root)] == ["ok"] * 3
    assert [status["job"] for status in statuses(root)] == [status["job"] for status in told]
    for status in told:
        assert f"(job {status['job']})" in watched
    again = cluster.slurm(*words, cwd=root)
    assert again.count("skipped, ok already") == 3


def test_a_submission_that_is_killed_goes_on_where_it_stopped(cluster: Cluster, root: Path) -> None:
    words = asked(root, "nodes=1", "seed=0,1,2", "steps=6")
    first = subprocess.Popen(["bash", str(HOSTS), "exec", *words], env=cluster.variables, cwd=root)
    end = time.monotonic() + 60
    while not list(root.glob("jobs/points/*/job.sh")):
        assert time.monotonic() < end
        time.sleep(0.01)
    cluster.slurm("pkill", "-9", "-f", "launcher=sbatch", check=False)
    first.send_signal(signal.SIGKILL)
    first.wait()
    cluster.slurm(*asked(root, "nodes=1", "seed=0,1,2", "steps=6"), cwd=root)
    jobs = [str(status["job"]) for status in statuses(root)]
    cluster.wait(jobs)
    assert [status["status"] for status in statuses(root)] == ["ok"] * 3
    assert all(len(list(path.parent.glob("job-*.log"))) == 1 for path in root.glob("jobs/points/*/job.sh"))


def test_a_job_that_begins_while_its_point_is_looked_at_runs_all_the_same(cluster: Cluster, root: Path) -> None:
    """Who submits again holds each point for a moment."""
    words = asked(root, "nodes=1", "seed=0,1", "steps=6")
    cluster.slurm(*words, cwd=root)
    jobs = [status["job"] for status in statuses(root)]
    while not any(status["status"] == "running" for status in statuses(root)):
        assert cluster.slurm(*words, cwd=root).endswith("2 points: 2 skipped")
    cluster.wait([str(job) for job in jobs])
    assert [(status["status"], status["job"]) for status in statuses(root)] == [("ok", job) for job in jobs]


def test_jobs_of_a_chain_wait_for_each_other_and_part_of_a_host_has_a_core_for_each_rank(
    cluster: Cluster, root: Path
) -> None:
    words = ("nodes=1", "seed=0,1", "steps=6", "launcher.chain=true", "launcher.exclusive=false")
    cluster.slurm(*asked(root, *words), cwd=root)
    jobs = sorted(int(str(status["job"])) for status in statuses(root))
    first, second = (cluster.slurm("scontrol", "show", "job", "--oneliner", str(job)) for job in jobs)
    assert f"Dependency=afterany:{jobs[0]}" in second
    assert f"CPUs/Task={RANKS_PER_HOST}" in first
    cluster.wait([str(job) for job in jobs])
    assert [status["status"] for status in statuses(root)] == ["ok"] * 2


def test_a_point_whose_job_lost_its_controller_is_run_again_and_keeps_what_it_had(cluster: Cluster, root: Path) -> None:
    words = asked(root, "nodes=2", "steps=6")
    cluster.slurm(*words, cwd=root)
    (job,) = (str(status["job"]) for status in statuses(root))
    (run_dir,) = (root / "jobs" / "points").iterdir()
    end = time.monotonic() + 60
    while not (run_dir / "attempts" / "0" / "launch.json").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    host = cluster.slurm("squeue", "-h", "-j", job, "-o", "%B")
    cluster.run("on", host, "pkill", "-9", "-f", "harness.study.job")
    cluster.wait([job])
    # as after a minute of silence
    os.utime(run_dir / "lease.json", (0, 0))
    assert "its controller has disappeared" in cluster.slurm(*HARNESS, "status", "jobs", f"--root={root}", cwd=root)
    cluster.slurm(*words, cwd=root)
    cluster.wait([str(status["job"]) for status in statuses(root)])
    before, now = statuses(root, "*~1")[0], json.loads((run_dir / "status.json").read_text())
    assert (before["status"], before["reason"]) == ("failed", "its controller disappeared")
    assert (now["status"], now["job"] == job) == ("ok", False)
