"""Where a point's processes are started: on this machine, or on hosts of the allocation that this process is in."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from launch import srun, torchrun
from launch.allocation import Allocation, Host, allocation
from launch.container import Container
from launch.environment import Environment
from launch.local import BREATH_S, GRACE_S, Tree, end_marked, markers, told
from launch.step import Step
from launch.sweep import sweep
from launch.torchrun import Ranks


class Launcher(Protocol):
    """Makes commands of points, and starts them."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the hosts that there are; a point takes the first ones."""

    def command(self, ranks: Ranks, attempt_dir: Path, environment: Environment) -> list[str]:
        """The command that runs ranks, with all that belongs to it.

        environment: what it will be started with; in a container its variables win over the image's own.
        """

    def start(self, command: list[str], environment: Environment, log: Path, nodes: int) -> Tree:
        """Start such a command."""

    def end_left(self, gone: Callable[[str], bool]) -> list[str]:
        """End what runs on all hosts with a marker that is `gone`; what may be left, a clause for each."""

    def answering(self) -> "Launcher":
        """The same on those hosts that are still there."""

    def queued_s(self) -> float | None:
        """Seconds that these hosts were waited for, or None where nobody can say."""

    def left_s(self) -> float | None:
        """Seconds until processes started here are ended from outside, or None where they are not."""


class Local:
    """Processes of this machine."""

    @property
    def hosts(self) -> tuple[str, ...]:
        return (socket.gethostname(),)

    def command(self, ranks: Ranks, attempt_dir: Path, environment: Environment) -> list[str]:
        return torchrun.command(ranks, attempt_dir / "logs")

    def start(self, command: list[str], environment: Environment, log: Path, nodes: int) -> Tree:
        return Tree(command, environment, log)

    def end_left(self, gone: Callable[[str], bool]) -> list[str]:
        left = told([pid for marker in markers() if gone(marker) for pid in end_marked(marker)])
        return [f"{process} could not be ended" for process in left]

    def answering(self) -> "Local":
        return self

    def queued_s(self) -> float | None:
        return 0.0

    def left_s(self) -> float | None:
        return None


@dataclass(frozen=True)
class Srun:
    """Steps on the first hosts of an allocation, as many as a point needs; ranks in a container where there is one."""

    allocation: Allocation
    container: Container | None = None

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(host.name for host in self.allocation.hosts)

    def command(self, ranks: Ranks, attempt_dir: Path, environment: Environment) -> list[str]:
        contained = self.container.options(environment) if self.container else []
        return srun.command(self.allocation.hosts[: ranks.nodes], attempt_dir, ranks.words, contained)

    def start(self, command: list[str], environment: Environment, log: Path, nodes: int) -> Tree:
        return Step(command, environment, log, self.allocation.hosts[:nodes])

    def end_left(self, gone: Callable[[str], bool]) -> list[str]:
        hosts = self.allocation.hosts
        answers = sweep(hosts)
        if found := sorted(filter(gone, {marker for answer in answers for marker in answer.markers})):
            answers = sweep(hosts, found)
        left = [f"{process} could not be ended" for answer in answers for process in answer.left]
        # an srun whose tasks are gone ends by itself; Slurm takes a minute to see that one was killed
        until = time.monotonic() + GRACE_S
        while any(map(gone, markers())) and time.monotonic() < until:
            time.sleep(BREATH_S)
        silent = [f"{answer.host} does not answer" for answer in answers if not answer.came]
        return [*Local().end_left(gone), *left, *silent]

    def answering(self) -> "Srun":
        # srun starts nothing at all where one of its hosts is down
        answers = sweep(self.allocation.up().hosts)
        there = {answer.host for answer in answers if answer.came}
        hosts = tuple(host for host in self.allocation.hosts if host.name in there)
        return replace(self, allocation=replace(self.allocation, hosts=hosts))

    def queued_s(self) -> float | None:
        return self.allocation.queued_s()

    def left_s(self) -> float | None:
        return self.allocation.left_s()


def launcher(kind: str, dry_nodes: int | None = None, container: Container | None = None) -> Launcher:
    """The launcher of that kind. ValueError where it cannot be had here; for a dry run of so many hosts it can."""
    if kind == "local":
        return Local()
    if dry_nodes is None:
        # a job may outlive its hosts
        return Srun(allocation().up(), container)
    hosts = tuple(Host(f"HOST_{number}", f"ADDRESS_{number}") for number in range(dry_nodes))
    return Srun(Allocation("JOB", hosts), container)
