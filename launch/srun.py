"""srun's words: one task a host, over some hosts of an allocation."""

import sys
from collections.abc import Sequence
from pathlib import Path

from launch.allocation import Host

NODE = "launch.node"
TOTALS = ("SLURM_GPUS", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_TRES_PER_TASK", "SLURM_GPUS_PER_TASK")


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
    program = [python, "-m", NODE, str(attempt_dir), hosts[0].address, "--", *torchrun]
    # also beside a step that cannot end on a host that is lost
    return step(hosts, program, ["--overlap", *contained])


def for_some(variables: dict[str, str]) -> dict[str, str]:
    """Variables without the totals of the allocation, of which a step on fewer hosts cannot have all."""
    return {name: value for name, value in variables.items() if name not in TOTALS}
