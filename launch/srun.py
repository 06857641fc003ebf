"""A point on several hosts of an allocation, as one Slurm step, until no process of it is left on any."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.allocation import Host
from launch.environment import SOURCE, Environment
from launch.local import Tree

NODE = "launch.node"
SWEEP_S = 20.0
TOTALS = ("SLURM_GPUS", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_TRES_PER_TASK", "SLURM_GPUS_PER_TASK")
# pyxis writes mounts into a file that a shell reads, a line each
UNMOUNTABLE = re.compile(r"[\s\"$`\\]")
SEPARATOR = re.compile(r"[,:]")


@dataclass(frozen=True)
class Container:
    """The image in which ranks run, by pyxis; of the host they see source, study and working directory as they are."""

    image: str
    mounts: str | None
    study_dir: Path

    def __post_init__(self) -> None:
        for folder in self.folders:
            if UNMOUNTABLE.search(str(folder)) or SEPARATOR.search(str(folder)):
                raise ValueError(
                    f"launcher.container_image={self.image}: {folder} cannot be mounted; "
                    "its path must be without spaces, quotes, $, \\, commas and colons"
                )
        if UNMOUNTABLE.search(self.mounts or ""):
            raise ValueError(
                f"launcher.container_mounts={self.mounts}: must be host:container paths, separated by commas, "
                "without spaces, quotes, $ and \\"
            )

    @property
    def folders(self) -> list[Path]:
        """What ranks need of the host, at the same paths."""
        here, own = Path.cwd(), [SOURCE, self.study_dir]
        return own if any(here.is_relative_to(folder) for folder in own) else [*own, here]

    def options(self, environment: Environment) -> list[str]:
        """srun's words for it. Variables that are named win over the image's own, others yield to them."""
        mounts = [*(f"{folder}:{folder}" for folder in self.folders), *([self.mounts] if self.mounts else [])]
        words = [
            f"--container-image={self.image}",
            f"--container-mounts={','.join(mounts)}",
            f"--container-workdir={Path.cwd()}",
        ]
        names = {**environment.effective, **environment.added, **environment.requested}
        return [*words, f"--container-env={','.join(sorted(names))}"]


def container(image: str | None, mounts: str | None, study_dir: Path) -> Container | None:
    """What a study's ranks run in, by the fields of harness.config.Launcher; None for the host itself."""
    return Container(image, mounts, study_dir) if image else None


def step(hosts: Sequence[Host], program: list[str], options: Sequence[str] = ()) -> list[str]:
    """srun of a program, one task on each of these hosts; all end where one fails."""
    return [
        "srun",
        f"--nodes={len(hosts)}",
        f"--nodelist={','.join(host.name for host in hosts)}",
        # an allocation's own number of tasks would win over that of each host
        f"--ntasks={len(hosts)}",
        "--ntasks-per-node=1",
        # whatever sbatch was told to export
        "--export=ALL",
        # torchrun binds ranks itself
        "--cpu-bind=none",
        "--kill-on-bad-exit=1",
        "--wait=60",
        *options,
        *program,
    ]


def command(hosts: Sequence[Host], attempt_dir: Path, torchrun: list[str], contained: Sequence[str] = ()) -> list[str]:
    """The command of a point's ranks on these hosts: each meets the others on the first, and becomes torchrun.

    contained: a container's options; there the interpreter is the image's.
    """
    python = "python3" if contained else sys.executable
    return step(hosts, [python, "-m", NODE, str(attempt_dir), hosts[0].address, "--", *torchrun], contained)


class Step(Tree):
    """A started step; its end is that of its processes on all its hosts, those too that Slurm does not find."""

    def __init__(self, command: list[str], environment: Environment, log: Path, hosts: Sequence[Host]) -> None:
        self.hosts, self.log, self.swept = hosts, log, False
        # totals of the allocation, of which a step on fewer hosts cannot have all
        self.variables = {name: value for name, value in environment.variables.items() if name not in TOTALS}
        super().__init__(command, replace(environment, variables=self.variables), log)

    def end(self) -> list[int]:
        left = super().end()
        if not self.swept:
            self.swept = True
            self.sweep()
        return left

    def sweep(self) -> None:
        """Kill what carries the step's marker on its hosts; never in a container, whose processes these are too."""
        words = step(self.hosts, [sys.executable, "-m", "launch.local", self.marker])
        with self.log.open("ab") as output:
            try:
                subprocess.run(
                    ["srun", "--overlap", *words[1:]],
                    env={name: value for name, value in self.variables.items() if value != self.marker},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=SWEEP_S,
                )
            except subprocess.TimeoutExpired:
                output.write(b"not all hosts answered when the step's processes were to be ended\n")
