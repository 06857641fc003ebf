"""What a point's ranks are started with: their environment and their command."""

from pathlib import Path

from harness.config import Config
from harness.plan.collectives import calls_per_step
from harness.plan.profiling import TOOLS, profiled_ranks
from harness.plan.workload import times_collectives
from harness.study.attempts import attempt_dir
from harness.study.planning import Planned, on_gpus
from launch import torchrun
from launch.devices import Machine
from launch.environment import Environment, build
from launch.launchers import Launcher
from launch.profiled import Tool


def commanded(
    planned: Planned, number: int, machine: Machine, launcher: Launcher, nodes: int | None = None
) -> tuple[Environment, list[str]]:
    """The environment and the command of a point's attempt; on fewer hosts than planned where `nodes` says so."""
    config, run_dir = planned.point.config, planned.point.run_dir
    folder, gpus = attempt_dir(run_dir, number), on_gpus(config, machine)
    environment = build(
        config.nccl.env,
        config.nccl.ambient == "clear",
        run_dir,
        folder / "logs",
        (len(machine.gpus) or config.gpus_per_node) if gpus else 0,
        0 if times_collectives(config) else calls_per_step(config),
        config.launcher.grace_s,
    )
    program = profiled(config, folder, torchrun.worker(run_dir, number, "cuda" if gpus else "cpu"))
    ranks = torchrun.Ranks(program, run_dir.name, nodes or config.nodes, config.gpus_per_node, config.launcher.numa)
    return environment, launcher.command(ranks, folder, environment)


def profiled(config: Config, folder: Path, program: list[str]) -> list[str]:
    """The ranks' program, in the point's profiler where that is a program of its own."""
    profile = config.profile
    if profile.kind not in TOOLS:
        return program
    tool = Tool(profile.kind, profiled_ranks(config), folder / "profile", profile.kernels, profile.launches)
    return tool.around(program)
