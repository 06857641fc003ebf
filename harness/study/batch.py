"""A point as a job of its own."""

from dataclasses import asdict, dataclass
from pathlib import Path

from harness.config import Config
from harness.study.point import Point
from launch import sbatch
from launch.devices import torch_has_cuda


@dataclass(frozen=True)
class Job:
    """What Slurm gets for a point: a script, and the options with which it is submitted."""

    path: Path
    script: str
    options: list[str]

    def command(self, after: str | None) -> list[str]:
        """Its submission; `after` is a job that has to end before."""
        return sbatch.command(self.path, self.options, after)


def job_of(point: Point) -> Job:
    """A point's job. ValueError, one sentence, for what a job script cannot hold."""
    config, run_dir = point.config, point.run_dir
    script = sbatch.script(run_dir)
    ranks = (config.launcher.max_nodes or config.nodes, config.gpus_per_node)
    options = sbatch.options(asdict(config.launcher), point.slug, *ranks, takes_gpus(config), run_dir)
    return Job(run_dir / "job.sh", script, options)


def takes_gpus(config: Config) -> bool:
    """Whether a job has to ask for GPUs.

    The machine that submits need not have any, so its own say nothing. The ranks run its torch, which uses none where
    it is a build for CPUs; a person who names the hardware says that there are some.
    """
    return config.hardware.name != "auto" or torch_has_cuda()
