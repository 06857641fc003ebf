"""sbatch slurm/scale.sh on a real Slurm of separate hosts: what a person gets, and what goes wrong."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
from lab import SCALE, SOURCE, Cluster
from study import SCALES, WORDS, running, scale, shaped, started, until

from harness.analysis.points import points
from harness.analysis.read import Study, read_study

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def scaled(cluster: Cluster, root: Path) -> Study:
    """A study over one, two and four hosts, in one allocation; NCCL's variables are hard to pass on."""
    said = scale(cluster, root, "steps=16", *(f"nccl.env.{name}={json.dumps(value)}" for name, value in ODD.items()))
    assert "3 points: 3 ok" in said, said
    return read_study(root / "cluster")


SHORTEST = ("steps=3", "warmup=2")
"""Of points whose preflight alone is judged."""

ODD = {"NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1", "NCCL_SOCKET_IFNAME": "^lo,docker0", "NCCL_TOPO_DUMP_FILE": "/tmp/a b'c"}


def test_points_run_on_one_two_and_four_hosts_and_ranks_follow_them(scaled: Study) -> None:
    found = {point.config.nodes: started(point) for point in scaled}
    assert {nodes: start["hosts"] for nodes, start in found.items()} == {
        1: ["node1"],
        2: ["node1", "node2"],
        4: ["node1", "node2", "node3", "node4"],
    }
    assert {nodes: start["world_size"] for nodes, start in found.items()} == {nodes: 2 * nodes for nodes in SCALES}


def test_all_meet_at_the_first_hosts_address(cluster: Cluster, scaled: Study) -> None:
    assert {started(point)["master_addr"] for point in scaled} == {cluster.address("node1")}


def test_the_report_has_the_efficiency_of_every_scale(scaled: Study) -> None:
    told = points(scaled).sort("gpus")
    assert told["gpus"].to_list() == [2, 4, 8]
    assert all(value is not None and value > 0 for value in told["efficiency"].to_list())


def test_values_with_commas_and_quotes_reach_the_ranks(scaled: Study) -> None:
    """The first rank's are recorded; all others end with an error where theirs are not those that were asked for."""
    for point in scaled:
        assert {name: started(point)["nccl"]["env"][name] for name in ODD} == ODD


def test_hosts_and_the_wait_for_them_are_recorded(scaled: Study) -> None:
    for point in scaled:
        assert point.provenance["hosts"] == started(point)["hosts"]
        assert 0 <= point.launches[0]["queue_s"] < 60


def test_the_preflight_is_recorded_and_names_nobody(scaled: Study) -> None:
    for point in scaled:
        if point.config.nodes == 1:
            assert not (point.path / "preflight.json").exists()
            continue
        found = json.loads((point.path / "preflight.json").read_text())
        assert [host["name"] for host in found["hosts"]] == started(point)["hosts"]
        assert found["slow"] == []
        assert found["clocks_s"].keys() == {host["name"] for host in found["hosts"]}
        assert all(abs(off) < 0.5 for off in found["clocks_s"].values())
        assert len(found["pairs"]) == point.config.nodes * (point.config.nodes - 1) // 2
        assert found["all_reduce"]["busbw"] > 0


@pytest.mark.parametrize(
    ("rate", "link", "least"),
    [("200mbit", 200e6, 0.85), pytest.param("1gbit", 1e9, 0.75, marks=pytest.mark.slow)],
)
def test_an_all_reduce_over_shaped_links_has_their_bandwidth(
    cluster: Cluster, root: Path, rate: str, link: float, least: float
) -> None:
    found = shaped(cluster, root, rate, *SHORTEST, nodes=4)
    assert found["all_reduce"]["bytes"] == 8 * 2**20
    assert least <= found["all_reduce"]["busbw"] * 8 / link <= 1.0, found
    assert found["slow"] == []


def test_one_slow_host_is_named(cluster: Cluster, root: Path) -> None:
    cluster.shaped("node3", "200mbit")
    try:
        said = scale(cluster, root, *SHORTEST, name="slow", NODES="4")
    finally:
        cluster.shaped("node3", "off")
    assert "warning: node3 is slow" in said
    (point,) = read_study(root / "slow")
    assert json.loads((point.path / "preflight.json").read_text())["slow"] == ["node3"]


def test_a_rank_that_is_killed_on_one_host_ends_the_point_on_all_and_the_next_starts_clean(
    cluster: Cluster, root: Path
) -> None:
    words = ("study=killed", f"root={root}", *WORDS, "steps=100000", "seed=0,1", "launcher.timeout_s=60")
    words = (*words, "preflight=false")
    job = cluster.submit("--nodes=4", f"--output={root}/killed.log", str(SCALE), *words, cwd=root, NODES="4")
    try:
        first = until(lambda: running(root / "killed"))
        victim = int(cluster.run("on", "node3", "pgrep", "-n", "-f", "harness.worker").split()[0])
        # its torchrun sees it later than the other hosts' see what follows from it
        torchrun = cluster.run("on", "node3", "pgrep", "-f", "torch.distributed.run").split()
        cluster.run("on", "node3", "kill", "-STOP", *torchrun)
        cluster.run("on", "node3", "kill", "-9", str(victim))
        died = time.time()
        time.sleep(1.5)
        cluster.run("on", "node3", "kill", "-CONT", *torchrun, check=False)  # Slurm may have ended it
        second = until(lambda: now if (now := running(root / "killed")) != first else None)
        status = json.loads((first / "status.json").read_text())
        assert status["time"] - died < 30
        assert (status["status"], status["host"]) == ("failed", "node3")
        assert status["rank"] in (4, 5)
        # where the other hosts' torchruns were so fast that Slurm ended this one first, nobody saw the signal
        assert re.search("ended (with SIGKILL|without a word)", status["reason"]), status["reason"]
        for host in ("node1", "node2", "node3", "node4"):
            assert workers(cluster, host, first) == ""
            assert workers(cluster, host, second) != ""
    finally:
        cluster.slurm("scancel", job)
        cluster.wait([job])


def test_a_host_that_goes_down_is_named_and_ends_the_point(cluster: Cluster, root: Path) -> None:
    words = ("study=down", f"root={root}", *WORDS, "steps=100000", "preflight=false")
    job = cluster.submit("--nodes=4", f"--output={root}/down.log", "slurm/scale.sh", *words, cwd=SOURCE, NODES="4")
    try:
        run_dir = until(lambda: running(root / "down"))
        cluster.run("crash", "node4")
        cluster.run("boot", "node4")
        cluster.wait([job])
    finally:
        cluster.slurm("scancel", job, check=False)
        until(lambda: cluster.slurm("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").count("node") == 4)
    status = json.loads((run_dir / "status.json").read_text())
    assert (status["status"], status["host"]) == ("failed", "node4"), status


def test_what_a_killed_controller_leaves_on_other_hosts_is_ended_before_the_next_point(
    cluster: Cluster, root: Path
) -> None:
    words = (
        sys.executable,
        "-m",
        "harness.cli",
        "run",
        "launcher=srun",
        "nodes=2",
        f"root={root}",
        *WORDS,
        "preflight=false",
    )
    program = """
        "$@" study=left steps=100000 &
        until grep -qs '"step"' "$ROOT"/left/points/*/attempts/0/events.jsonl; do sleep 0.2; done
        kill -9 $!
        "$@" study=next steps=6
    """
    salloc = ("salloc", "--quiet", "--nodes=2", "--exclusive", "bash", "-c", program, "_")
    said = cluster.slurm(*salloc, *words, cwd=root, ROOT=str(root))
    assert said.endswith("1 point: 1 ok"), said
    (left,) = (root / "left" / "points").iterdir()
    assert [workers(cluster, host, left) for host in ("node1", "node2")] == ["", ""]


def test_points_that_do_not_fit_into_the_time_left_stay_pending(cluster: Cluster, root: Path) -> None:
    """The second point is expected to take as long as the first has; a minute is not enough for both."""
    words = ("study=late", f"root={root}", *WORDS, "steps=100000", "seed=0,1", "launcher.timeout_s=31")
    job = cluster.submit("--nodes=1", "--time=1", f"--output={root}/late.log", str(SCALE), *words, cwd=root)
    cluster.wait([job])
    said = (root / "late.log").read_text()
    assert "pending, takes about" in said
    told = sorted(json.loads(path.read_text())["status"] for path in root.glob("late/points/*/status.json"))
    assert told == ["pending", "timeout"]


def workers(cluster: Cluster, host: str, run_dir: Path) -> str:
    """The ranks of a point that live on a host."""
    return cluster.run("on", host, "pgrep", "-f", f"harness.worker {run_dir}", check=False)
