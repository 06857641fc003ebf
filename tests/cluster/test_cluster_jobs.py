"""harness run launcher=sbatch on a real Slurm: a job a point, from a login node."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import HOSTS, Cluster
from study import WORDS

pytestmark = pytest.mark.cluster

HARNESS = (sys.executable, "-m", "harness.cli")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def asked(root: Path, *words: str) -> tuple[str, ...]:
    return (*HARNESS, "run", "-m", "launcher=sbatch", f"root={root}", "study=jobs", *WORDS, *words)


def queued(cluster: Cluster) -> list[str]:
    return cluster.slurm("squeue", "-h", "-o", "%i %j").splitlines()


def statuses(root: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(root.glob("jobs/points/*/status.json"))]


def test_three_jobs_are_queued_at_once_and_status_follows_them_to_their_end(cluster: Cluster, root: Path) -> None:
    begin = time.monotonic()
    said = cluster.slurm(*asked(root, "nodes=1,2,4"), cwd=root)
    took = time.monotonic() - begin
    assert took < 5, "three points were submitted, none was waited for"
    assert said.endswith("3 points: 3 queued")
    told = statuses(root)
    assert len({status["job"] for status in told}) == 3
    watched = cluster.slurm(*HARNESS, "status", "jobs", f"--root={root}", "--watch", cwd=root)
    assert [status["status"] for status in statuses(root)] == ["ok"] * 3
    assert [status["job"] for status in statuses(root)] == [status["job"] for status in told]
    for status in told:
        assert f"(job {status['job']})" in watched
    again = cluster.slurm(*asked(root, "nodes=1,2,4"), cwd=root)
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


def test_jobs_of_a_chain_wait_for_each_other(cluster: Cluster, root: Path) -> None:
    words = ("nodes=1", "seed=0,1", "steps=6", "launcher.chain=true")
    cluster.slurm(*asked(root, *words), cwd=root)
    jobs = sorted(int(str(status["job"])) for status in statuses(root))
    told = cluster.slurm("scontrol", "show", "job", "--oneliner", str(jobs[1]))
    assert f"Dependency=afterany:{jobs[0]}" in told
    cluster.wait([str(job) for job in jobs])
