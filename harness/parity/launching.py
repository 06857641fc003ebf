"""One launch of a parity check: a folder, a process tree of its own, and what it told."""

import socket
from pathlib import Path

from harness.files import write_text
from harness.parity.compare import Told, read
from harness.study.attempt import Deadline, wait
from harness.study.interruption import Interruption
from harness.study.outcome import LAUNCHER_LOG, outcome
from harness.study.point import Point
from harness.study.rundir import yaml_of
from launch import torchrun
from launch.devices import Machine
from launch.environment import build
from launch.local import Tree

RANK = "harness.parity.rank"


def launch(folder: Path, point: Point, bare: bool, machine: Machine, interruption: Interruption) -> Told | str:
    """Train the point on its ranks, or its bare module in one process: what that told, or why it told nothing."""
    config, logs, gpus = point.config, folder / "logs", len(machine.gpus)
    logs.mkdir(parents=True)
    write_text(folder / "config.yaml", yaml_of(point))
    environment = build(config.nccl.env, config.nccl.ambient == "clear", folder, logs, gpus, calls_per_step=0)
    program = [RANK, str(folder), f"--device={'cuda' if gpus else 'cpu'}", *(["--bare"] if bare else [])]
    ranks = torchrun.Ranks(program, folder.name, 1, 1 if bare else config.gpus_per_node)
    command = torchrun.command(ranks, logs)
    with Tree(command, environment, logs / LAUNCHER_LOG) as tree:
        cut = wait(tree, Deadline.after(config.launcher.timeout_s), None, interruption, watch=lambda: None)
    if cut is not None:
        assert cut.reason is not None
        return cut.reason
    exit_code = tree.poll()
    assert exit_code is not None
    if exit_code == 0:
        return read(folder / "told.json")
    return outcome(folder, exit_code, [socket.gethostname()], ranks.per_node).reason or f"exit {exit_code}"
