"""A point on several hosts of an allocation, as one Slurm step, until no process of it is left on any."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.allocation import Host
from launch.environment import SOURCE, Environment, own
from launch.local import Tree, told

NODE = "launch.node"
SWEEP_S = 20.0
TOTALS = ("SLURM_GPUS", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_TRES_PER_TASK", "SLURM_GPUS_PER_TASK")
# pyxis writes mounts into a file that a shell reads, a line each
UNMOUNTABLE = re.compile(r"[\s\"$`\\]")
SEPARATOR = re.compile(r"[,:]")
# of a job that Slurm itself ends, with all its processes
ENDING = re.compile(rb"Job/step already completing|Invalid job id|Job has expired")
# of a host that was cut off
WHOLE = re.compile(rb"\{.*\}$")


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
        # of a host that has gone down; torchruns wait for each other at their end
        "--wait=20",
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


@dataclass(frozen=True)
class Answer:
    """What a host says when it is swept, if it does: the markers of its processes, and those that did not end."""

    host: str
    came: bool
    markers: Sequence[str] = ()
    left: Sequence[str] = ()


def sweep(hosts: Sequence[Host], markers: Sequence[str] = ()) -> list[Answer]:
    """Kill what carries one of the markers on these hosts; what each answers.

    Never in a container, whose processes these are too, and beside whatever else runs there.
    """
    program = [sys.executable, "-m", "launch.local", *markers]
    try:
        done = subprocess.run(
            step(hosts, program, ["--overlap"]),
            env=for_some(own()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SWEEP_S,
        )
        if ENDING.search(done.stderr):
            return [Answer(host.name, True) for host in hosts]
        said = done.stdout
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
    answers = {(answer := json.loads(line))["number"]: answer for line in said.splitlines() if WHOLE.match(line)}
    return [
        Answer(host.name, True, answer["markers"], [f"{process} on {host.name}" for process in told(answer["left"])])
        if (answer := answers.get(number))
        else Answer(host.name, False)
        for number, host in enumerate(hosts)
    ]


def for_some(variables: dict[str, str]) -> dict[str, str]:
    """Variables without the totals of the allocation, of which a step on fewer hosts cannot have all."""
    return {name: value for name, value in variables.items() if name not in TOTALS}
