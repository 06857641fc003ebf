"""What a person reads before anything starts."""

import json
import shlex
from collections.abc import Iterator

from harness.config import Config
from harness.plan.benchmark import BenchmarkPlan, size_text
from harness.plan.nccl import doubts
from harness.plan.point import Plan
from harness.plan.strategies import DEGREES
from harness.quantities import gibibytes, gigabytes, number
from harness.study.attempts import attempt_dir
from harness.study.batch import job_of
from harness.study.command import commanded
from harness.study.planning import Planned, on_gpus, oversubscribed
from harness.study.point import Point
from harness.study.rundir import study_document, yaml_of
from launch import torchrun
from launch.devices import Machine
from launch.environment import ambient, hidden, recompiles
from launch.launchers import Launcher, Local

RECOMPILES = (
    "PYTHONDONTWRITEBYTECODE is set where harness starts, and torch has no compiled files: every process compiles "
    "Python again, which can double the time of a short point; unset it"
)


def preview(order: list[Planned], machine: Machine) -> Iterator[str]:
    """The points in the order in which they run, what they take, and what is doubtful about them."""
    first = order[0].point
    yield f"study {first.config.study}: {counted(len(order), 'point')} in {first.study_dir}; here: {here(machine)}"
    for position, planned in enumerate(order, 1):
        yield f"  [{position}/{len(order)}] {planned.point.slug}: {expected(planned, machine)}"
    possible = [planned.possible for planned in order if planned.plan]
    hours = [plan.gpu_hours for plan in possible if plan.gpu_hours is not None]
    most = max((plan.world_size for plan in possible), default=0)
    total = f"about {number(sum(hours), 2)} GPU-hours" if hours and len(hours) == len(possible) else "GPU-hours unknown"
    yield f"  up to {counted(most, 'rank')} at once, {total} in all"
    doubtful = doubts(ambient()) if any(on_gpus(planned.point.config, machine) for planned in order) else []
    if recompiles():
        doubtful = [*doubtful, RECOMPILES]
    for warning in dict.fromkeys([*(warning for plan in possible for warning in plan.warnings), *doubtful]):
        yield f"  warning: {warning}"


def expected(planned: Planned, machine: Machine) -> str:
    """One point's plan in a line."""
    if planned.plan is None:
        return f"invalid: {planned.impossible}"
    plan, config = planned.plan, planned.point.config
    parts = [counted(plan.world_size, "GPU" if on_gpus(config, machine) else "CPU process")]
    parts += timed(plan) if isinstance(plan, BenchmarkPlan) else trained(config, plan)
    if plan.seconds is not None:
        parts.append(f"about {plan.seconds:.0f} s and {number(plan.gpu_hours, 2)} GPU-hours")
    if oversubscribed(config, machine):
        parts.append(f"over-subscribed: {config.gpus_per_node} ranks on {counted(machine.cores, 'core')}")
    return ", ".join(parts)


def trained(config: Config, plan: Plan) -> list[str]:
    """What a point trains, in phrases."""
    arranged = arrangement(config, plan)
    return [
        *([arranged] if arranged else []),
        f"{plan.tokens_per_step:,} tokens a step",
        f"{plan.parameters:,} parameters",
        f"about {gibibytes(plan.memory.total, 2)} GiB a rank",
        *([f"moves {moved(plan)} a step and rank"] if plan.traffic else []),
    ]


def timed(plan: BenchmarkPlan) -> list[str]:
    """What a point times, in phrases."""
    return [
        ", ".join(plan.operations),
        f"{size_text(plan.sizes[0])} to {size_text(plan.sizes[-1])}",
        f"about {gibibytes(plan.memory, 2)} GiB a rank",
    ]


def arrangement(config: Config, plan: Plan) -> str:
    """How the ranks share the work, where that is not by data alone: `dp 2 × tp 4, 4 microbatches`."""
    parallel = config.parallel
    shards = "shard" if parallel.replicas > 1 else "dp"
    degrees = {"replicas": parallel.replicas, shards: plan.data_parallel // parallel.replicas}
    degrees |= {name: getattr(parallel, name) for name in DEGREES}
    longer = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1 or name == shards]
    told = [" × ".join(longer)] if len(longer) > 1 else []
    return ", ".join([*told, counted(plan.accumulation, "microbatch")] if plan.accumulation > 1 else told)


def moved(plan: Plan) -> str:
    """What one rank moves in a step by communication group: `3.1 GB dp + 0.2 GB tp`."""
    groups: dict[str, int] = {}
    for told in plan.traffic:
        groups[told.group] = groups.get(told.group, 0) + told.bytes
    return " + ".join(f"{gigabytes(size, 2)} GB {group}" for group, size in groups.items())


def here(machine: Machine) -> str:
    """This machine in a few words."""
    if machine.gpus:
        return f"{len(machine.gpus)} × {machine.gpus[0].name}"
    return f"no GPU, {counted(machine.cores, 'core')}"


def counted(number: int, thing: str) -> str:
    plural = f"{thing}es" if thing.endswith(("s", "ch")) else f"{thing}s"
    return f"{number} {thing if number == 1 else plural}"


def dry_run(order: list[Planned], machine: Machine, launcher: Launcher) -> Iterator[str]:
    """Each point's environment and command, exactly as they would be; those of a job after the job's own."""
    before = None
    for position, planned in enumerate(order, 1):
        if planned.plan is None:
            continue
        yield ""
        yield f"[{position}/{len(order)}] {planned.point.slug}"
        chosen = planned.point.config.launcher
        if chosen.kind == "sbatch":
            job = job_of(planned.point)
            yield shlex.join(job.command(before))
            yield f"# {job.path}:"
            yield job.script.rstrip()
            yield "# in the job:"
            before = f"JOB_{position}" if chosen.chain else None
        yield from shown(planned, machine, launcher)


def shown(planned: Planned, machine: Machine, launcher: Launcher) -> Iterator[str]:
    """The environment and the command of a point's ranks, for a shell."""
    if planned.point.config.nodes > 1 and isinstance(launcher, Local):
        yield "# once, in a folder that all hosts see"
        yield from planting(planned.point)
        yield f"# on each of {planned.point.config.nodes} hosts, {torchrun.FIRST_HOST} being one of them"
    environment, command = commanded(planned, 0, machine, launcher)
    for name in environment.cleared:
        yield f"unset {name}"
    variables = hidden({**environment.ambient, **environment.added, **environment.requested})
    for name, value in sorted(variables.items()):
        if name not in environment.cleared:
            yield f"export {name}={shlex.quote(value)}"
    yield shlex.join(command)


def planting(point: Point) -> Iterator[str]:
    """What makes the run directory of a point that no controller starts, for a shell."""
    texts = {
        point.study_dir / "study.json": json.dumps(study_document(point.config.study)),
        point.run_dir / "config.yaml": yaml_of(point),
    }
    yield f"mkdir -p {shlex.quote(str(attempt_dir(point.run_dir, 0) / 'logs'))}"
    for path, text in texts.items():
        yield f"printf %s {shlex.quote(text)} > {shlex.quote(str(path))}"
