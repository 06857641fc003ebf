"""All points planned before the first starts: what each will do, or why it cannot."""

import shutil
from dataclasses import dataclass
from importlib.util import find_spec

from harness.config import Config
from harness.fields import check_fields
from harness.plan.benchmark import BenchmarkPlan, plan_benchmark
from harness.plan.elastic import check_elastic
from harness.plan.hardware import Device, find, named
from harness.plan.kernels import check_kernels
from harness.plan.point import Plan, plan
from harness.plan.profiling import TOOLS
from harness.plan.workload import times_collectives
from harness.study.point import Point
from launch.devices import Machine

MOST_CPU_RANKS = 64


@dataclass(frozen=True)
class Planned:
    """A point with its plan, or with the sentence that says why it is impossible."""

    point: Point
    plan: Plan | BenchmarkPlan | None
    impossible: str | None = None

    @property
    def possible(self) -> Plan | BenchmarkPlan:
        assert self.plan is not None, self.impossible
        return self.plan

    @property
    def stages(self) -> int:
        """What a person sees pass: steps of training, or the figures that a benchmark makes."""
        plan = self.possible
        return plan.entries if isinstance(plan, BenchmarkPlan) else self.point.config.steps


def plan_all(points: list[Point], machine: Machine, hosts: int = 1) -> list[Planned]:
    """Plan every point against `hosts` machines like this one, or against the one that it names."""
    return [planned(point, machine, hosts) for point in points]


def planned(point: Point, machine: Machine, hosts: int) -> Planned:
    config = point.config
    try:
        check_fields(config)
        check_elastic(config)
        if not away(config):
            check_here(config, machine, hosts)
        check_numa(config, machine)
        check_tool(config, machine)
        device, limit = target(config, machine)
        if times_collectives(config):
            return Planned(point, plan_benchmark(config, on_gpus(config, machine), limit))
        made = plan(config, device, limit)
        check_kernels(config, gpu_of_ranks(config, machine), elsewhere(config) or find_spec("torchao") is not None)
    except ValueError as error:
        return Planned(point, None, str(error))
    return Planned(point, made)


def target(config: Config, machine: Machine) -> tuple[Device | None, int | None]:
    """The device to plan for and the memory that one rank has at most."""
    if config.hardware.name != "auto":
        device = named(config.hardware.name)
        return device, device.memory_bytes
    if config.launcher.kind == "sbatch":
        return gpu_here(machine), None  # the job's own hosts are asked when it starts
    if machine.gpus:
        return gpu_here(machine), min(gpu.memory_bytes for gpu in machine.gpus)
    return None, machine.memory_bytes // config.gpus_per_node


def gpu_here(machine: Machine) -> Device | None:
    """This machine's GPU, from the table or by what the driver says."""
    if not machine.gpus:
        return None
    first = machine.gpus[0]
    return find(first.name) or Device(first.name, first.name, first.memory_bytes, peaks={}, source="the driver")


def check_here(config: Config, machine: Machine, hosts: int) -> None:
    """Raise ValueError for a scale that this machine, and others like it, do not have."""
    if config.launcher.kind == "local" and config.nodes > 1:
        raise ValueError(f"nodes={config.nodes}: launcher=local starts processes on this machine only; say nodes=1")
    if config.nodes > hosts:
        raise ValueError(f"nodes={config.nodes}: must be at most {hosts}, the hosts of this allocation")
    if machine.gpus and config.gpus_per_node > len(machine.gpus):
        raise ValueError(f"gpus_per_node={config.gpus_per_node}: this machine shows {len(machine.gpus)} GPUs")
    if not machine.gpus and config.gpus_per_node > MOST_CPU_RANKS:
        raise ValueError(
            f"gpus_per_node={config.gpus_per_node}: at most {MOST_CPU_RANKS} CPU processes on a machine without GPUs"
        )


def check_numa(config: Config, machine: Machine) -> None:
    """Raise ValueError for ranks that are to be bound near GPUs and have none; of a job, its own hosts can tell."""
    if config.launcher.numa and config.launcher.kind != "sbatch" and not on_gpus(config, machine):
        raise ValueError(
            f"launcher.numa={config.launcher.numa}: binds each rank to cores near its GPU, and these ranks are CPU "
            "processes; say launcher.numa=null"
        )


def check_tool(config: Config, machine: Machine) -> None:
    """Raise ValueError for a profiler around ranks without GPUs, or one that this machine does not have.

    Hosts of an allocation are asked before their points start; of a job, its own hosts can tell.
    """
    profiler = config.profile.kind
    if profiler not in TOOLS or config.launcher.kind == "sbatch":
        return
    if not on_gpus(config, machine):
        raise ValueError(
            f"profile={profiler}: looks at CUDA kernels, and these ranks are CPU processes; say profile=torch"
        )
    if config.launcher.kind == "local" and not away(config) and shutil.which(profiler) is None:
        raise ValueError(
            f"profile={profiler}: there is no {profiler} on the PATH of this machine; add the folder that has it, such "
            "as /usr/local/cuda/bin, or say profile=torch"
        )


def away(config: Config) -> bool:
    """Whether the point does not start here: it is only shown, or submitted."""
    return config.launcher.dry or config.launcher.kind == "sbatch"


def elsewhere(config: Config) -> bool:
    """Whether the point is planned for a machine that need not be this one."""
    return away(config) and config.hardware.name != "auto"


def gpu_of_ranks(config: Config, machine: Machine) -> Device | None:
    """The GPU that each of the point's ranks will have: this machine's, or that of the machine planned for."""
    return named(config.hardware.name) if elsewhere(config) else gpu_here(machine)


def on_gpus(config: Config, machine: Machine) -> bool:
    """Whether the point's ranks will have GPUs."""
    return gpu_of_ranks(config, machine) is not None


def oversubscribed(config: Config, machine: Machine) -> bool:
    """Whether the point's ranks will share cores, for want of GPUs."""
    return not on_gpus(config, machine) and config.gpus_per_node > machine.cores
