"""NCCL between hosts: two on this machine, each with a GPU of its own, that reach each other by TCP alone."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lab import SOURCE, Cluster, missing
from study import running, scale, shaped, started, until

from harness.analysis.read import read_study

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs, one for each host"),
]

WORDS = ("gpus_per_node=1", "seq_len=1024")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    os.environ["SBATCH_GPUS_PER_NODE"] = "1"
    with Cluster(tmp_path_factory.mktemp("pair"), hosts=2, name="hg", net="10.76.0", gpus=True) as made:
        yield made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


def test_points_run_on_one_and_two_hosts_and_talk_by_the_network(pair: Cluster, root: Path) -> None:
    said = scale(pair, root, *WORDS, "model=125m", "parallel=ddp,fsdp", name="two-hosts", nodes=2)
    assert said.endswith("4 points: 4 ok\n"), said
    study = read_study(root / "two-hosts")
    for point in study:
        start = started(point)
        assert (start["backend"], start["world_size"]) == ("nccl", point.config.nodes)
        assert start["hosts"] == ["node1", "node2"][: point.config.nodes]
        if point.config.nodes == 2:
            assert (start["nccl"]["network"], start["nccl"]["transports"]) == ("Socket", ["NET/Socket/0"])
            preflight = json.loads((point.path / "preflight.json").read_text())
            assert [len(host["gpus"]) for host in preflight["hosts"]] == [1, 1]


@pytest.mark.parametrize(("rate", "link", "least"), [("1gbit", 1e9, 0.75), ("5gbit", 5e9, 0.5)])
def test_an_all_reduce_of_nccl_has_the_links_bandwidth(
    pair: Cluster, root: Path, rate: str, link: float, least: float
) -> None:
    found = shaped(pair, root, rate, *WORDS, "steps=6", nodes=2)
    print(rate, found["all_reduce"], found["pairs"])
    assert least <= found["all_reduce"]["busbw"] * 8 / link <= 1.0, found


def test_a_rank_that_is_killed_ends_the_point_on_both_hosts(pair: Cluster, root: Path) -> None:
    words = (f"root={root}", "study=killed", "model=tiny", "record.wandb=disabled", "steps=100000", "seed=0,1")
    job = pair.submit(
        "--nodes=2", f"--output={root}/killed.log", "slurm/scale.sh", *words, *WORDS, cwd=SOURCE, NODES="2"
    )
    try:
        first = until(lambda: running(root / "killed"))
        pair.run("on", "node2", "pkill", "-9", "-n", "-f", "harness.worker")
        died = time.time()
        second = until(lambda: now if (now := running(root / "killed")) != first else None)
        status = json.loads((first / "status.json").read_text())
        print(f"ended after {status['time'] - died:.1f} s:", status["reason"])
        assert status["time"] - died < 30
        assert (status["status"], status["host"], status["rank"]) == ("failed", "node2", 1)
        assert second.name != first.name
    finally:
        pair.slurm("scancel", job)
        pair.wait([job])
