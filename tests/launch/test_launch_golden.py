"""What Slurm gets for a point, word for word: tests/launch/golden/, with what a machine decides in braces."""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import plan_configs
import pytest

from harness.config import Hardware, Launcher, Nccl, Profile
from harness.study.batch import job_of
from harness.study.planning import planned
from harness.study.point import Point
from harness.study.preview import dry_run
from launch.container import container
from launch.devices import Machine
from launch.environment import SOURCE
from launch.launchers import launcher

GOLDEN = Path(__file__).parent / "golden"
LOGIN_NODE = Machine((), None, 8, 2**34)
HOSTILE = {
    "NCCL_CONF_FILE": "x; touch pwned",
    "NCCL_TOPO_DUMP_FILE": "$(touch pwned)",
    "NCCL_IB_HCA": "=mlx5_0:1,mlx5_1:1",
    "NCCL_NET": "it's",
    "NCCL_SOCKET_IFNAME": "^lo,docker0",
    "NCCL_TOPO_FILE": "/a path/of two words",
}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*os.environ,):
        if name.startswith("NCCL_") or name == "PYTHONPATH":
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def point(root: Path, nccl: dict[str, Any] | None = None, **chosen: Any) -> Point:
    """A point on two hosts of eight GPUs, as a job."""
    return Point(
        plan_configs.config(
            nodes=2,
            gpus_per_node=8,
            root=str(root),
            nccl=Nccl("default", nccl or {}),
            hardware=Hardware("h100_sxm", 8),
            launcher=Launcher("dry", "sbatch", dry=True, **chosen),
        )
    )


def dry(asked: Point) -> str:
    """What a dry run prints of a point."""
    chosen = asked.config.launcher
    contained = container(chosen.container_image, chosen.container_mounts, asked.study_dir)
    lines = dry_run([planned(asked, LOGIN_NODE, 2)], LOGIN_NODE, launcher("sbatch", 2, contained))
    return "\n".join(lines)


def submitted(asked: Point, after: str | None) -> str:
    """A point's submission and its script."""
    job = job_of(asked)
    return f"{shlex.join(job.command(after))}\n{job.script}"


def same(text: str, golden: str, asked: Point, tmp_path: Path) -> None:
    """Compare with a golden file."""
    for word, brace in (
        (sys.executable, "{python}"),
        (str(SOURCE), "{source}"),
        (str(tmp_path), "{tmp}"),
        (asked.slug, "{slug}"),
    ):
        text = text.replace(word, brace)
    assert text.strip() == (GOLDEN / golden).read_text().strip()


def test_a_plain_job(tmp_path: Path) -> None:
    asked = point(tmp_path)
    same(dry(asked), "plain.sbatch", asked, tmp_path)


def test_a_job_whose_ranks_run_in_a_container(tmp_path: Path) -> None:
    asked = point(
        tmp_path,
        {"NCCL_ALGO": "allreduce:ring"},
        container_image="nvcr.io#nvidia/pytorch:25.06-py3",
        container_mounts="/data:/data:ro,/scratch:/tmp",
    )
    same(dry(asked), "pyxis.sbatch", asked, tmp_path)


def test_a_job_with_every_option_of_a_site(tmp_path: Path) -> None:
    asked = point(
        tmp_path,
        time="2:00:00",
        partition="batch",
        account="physics",
        qos="high",
        constraint="[rack1|rack2]",
        exclusive=False,
        gres="gpu:h100:8",
        segment=4,
        switches=1,
        signal_lead_s=120,
        requeue=True,
        chain=True,
    )
    same(submitted(asked, "17"), "site.sbatch", asked, tmp_path)


def test_a_job_with_hostile_values(tmp_path: Path) -> None:
    asked = point(
        tmp_path / "it's $(touch pwned)",
        HOSTILE,
        account="x; touch pwned",
        partition="$(touch pwned)",
        constraint="a&b|c",
    )
    same(dry(asked), "hostile.sbatch", asked, tmp_path)


def test_the_points_of_a_chain_wait_for_each_other(tmp_path: Path) -> None:
    first = point(tmp_path, chain=True)
    points = [Point(replace(first.config, repeat=repeat)) for repeat in range(3)]
    order = [planned(one, LOGIN_NODE, 2) for one in points]
    lines = [line for line in dry_run(order, LOGIN_NODE, launcher("sbatch", 2)) if line.startswith("sbatch ")]
    waits = [[word for word in shlex.split(line) if word.startswith("--dependency=")] for line in lines]
    assert waits == [[], ["--dependency=afterany:JOB_1"], ["--dependency=afterany:JOB_2"]]


def test_a_job_whose_first_ranks_of_each_host_run_in_nsight_systems(tmp_path: Path) -> None:
    made = point(tmp_path)
    asked = Point(replace(made.config, profile=Profile("nsys", "nsys", ranks=[0, 8])))
    same(dry(asked), "nsys.sbatch", asked, tmp_path)


def test_a_job_with_a_hostile_choice_of_kernels_for_nsight_compute(tmp_path: Path) -> None:
    made = point(tmp_path)
    kernels = Profile("ncu", "ncu", steps=1, kernels="gemm$(touch pwned)|it's; touch pwned", launches=5)
    asked = Point(replace(made.config, profile=kernels))
    same(dry(asked), "ncu.sbatch", asked, tmp_path)
