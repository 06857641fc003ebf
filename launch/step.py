"""A point's processes on hosts of an allocation, as a Slurm step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launch.allocation import Host
from launch.environment import Environment
from launch.local import Tree
from launch.srun import for_some
from launch.sweep import sweep


class Step(Tree):
    """A started step; its end is that of its processes on all its hosts, those too that Slurm does not find."""

    def __init__(self, command: list[str], environment: Environment, log: Path, hosts: Sequence[Host]) -> None:
        self.hosts, self.ended = hosts, False
        super().__init__(command, replace(environment, variables=for_some(environment.variables)), log)

    def end(self) -> list[str]:
        left = super().end()
        if not self.ended:
            answers = sweep(self.hosts, [self.marker])
            left += [process for answer in answers for process in answer.left]
            self.silent = [answer.host for answer in answers if not answer.came]
            self.ended = not left
        return left
