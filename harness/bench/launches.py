"""Whole launches of one point: as `harness run` does it, and with nothing attached."""

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.study.attempts import attempt_dir
from harness.study.command import commanded
from harness.study.controller import run_all
from harness.study.outcome import LAUNCHER_LOG, outcome
from harness.study.planning import Planned
from harness.study.progress import Progress
from harness.study.rundir import plant, read_status
from launch.devices import Machine
from launch.environment import Environment
from launch.launchers import Local
from launch.local import Tree
from launch.torchrun import Ranks

RANK = "harness.bench.rank"
MEASURING = (
    "TORCH_NCCL_ENABLE_TIMING",
    "TORCH_FR_BUFFER_SIZE",
    "TORCH_NCCL_TRACE_BUFFER_SIZE",
    "NCCL_DEBUG",
    "NCCL_DEBUG_SUBSYS",
    "NCCL_DEBUG_FILE",
)
"""What a point's environment has only so that it can be measured."""


@dataclass(frozen=True)
class Stamps:
    """What the first rank of a launch saw: seconds of each step, from the first on, and the names of its
    NCCL_ and TORCH_ variables."""

    seconds: Sequence[float]
    variables: Sequence[str]


class Timed(Local):
    """This machine; ranks run the worker with a stopwatch."""

    def command(self, ranks: Ranks, attempt_dir: Path, environment: Environment) -> list[str]:
        return super().command(replace(ranks, program=[RANK, *ranks.program[1:]]), attempt_dir, environment)


def recorded(planned: Planned, machine: Machine, progress: Progress) -> Stamps:
    """The point's turn in a study, with all that belongs to it: controller, recorder and mirror."""
    run_dir = planned.point.run_dir
    if run_all([planned], False, machine, Timed(), [], progress, reported=False):
        status: dict[str, Any] = read_status(run_dir) or {}
        raise RuntimeError(f"{run_dir}: {status.get('status')}, {status.get('reason')}")
    return read(run_dir)


def bare(planned: Planned, machine: Machine) -> Stamps:
    """The same ranks and the same training; no controller, recorder or mirror, no variable that measuring needs."""
    run_dir, folder = planned.point.run_dir, attempt_dir(planned.point.run_dir, 0)
    plant(planned.point)
    (folder / "logs").mkdir(parents=True)
    environment, command = commanded(planned, 0, machine, Timed())
    kept = {name: value for name, value in environment.variables.items() if name not in MEASURING}
    with Tree([*command, "--bare"], replace(environment, variables=kept), folder / "logs" / LAUNCHER_LOG) as tree:
        exit_code = tree.process.wait()
    if exit_code:
        ended = outcome(folder, exit_code, [socket.gethostname()], planned.point.ranks)
        raise RuntimeError(f"{run_dir}: {ended.status}, {ended.reason}")
    return read(run_dir)


def read(run_dir: Path) -> Stamps:
    return Stamps(**json.loads((run_dir / "stamps.json").read_text()))
