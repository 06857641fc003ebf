"""The command that starts a point's ranks."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from launch.environment import Environment, secret

WORKER = "harness.worker"
FIRST_HOST = "FIRST_HOST"


def worker(run_dir: Path, attempt: int, device: str) -> list[str]:
    """The module that a point's ranks run, with its arguments.

    `device` is what the point was planned on, so that ranks that find no usable GPU fail instead of running on CPUs.
    """
    return [WORKER, str(run_dir), f"--attempt={attempt}", f"--device={device}"]


@dataclass(frozen=True)
class Ranks:
    """A module with its arguments, how many processes of it on how many hosts, and the name under which they meet.

    numa: how ranks are bound to cores, as torchrun's --numa-binding.
    """

    program: list[str]
    name: str
    nodes: int
    per_node: int
    numa: str | None = None

    @property
    def words(self) -> list[str]:
        """torchrun's words, the same on all hosts."""
        return [
            "--rdzv-backend=c10d",
            f"--rdzv-id={self.name}",
            f"--nnodes={self.nodes}",
            f"--nproc-per-node={self.per_node}",
            *([f"--numa-binding={self.numa}"] if self.numa else []),
            "--redirects=3",
            "-m",
            *self.program,
        ]


def command(ranks: Ranks, logs: Path) -> list[str]:
    """The command that runs the ranks of this machine, which meet on a free port.

    Over several hosts it is the command of each of them, and the one to meet at has to be filled in.
    """
    meeting = ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    meeting = meeting if ranks.nodes == 1 else [f"--rdzv-endpoint={FIRST_HOST}:29400"]
    return [sys.executable, "-m", "torch.distributed.run", *meeting, logged(logs, 0), *ranks.words]


def logged(logs: Path, node: int) -> str:
    """torchrun's word for where the ranks of a host write their logs."""
    return f"--log-dir={logs / f'node{node}'}"


def script(words: list[str], environment: Environment, run_dir: Path) -> str:
    """A shell script that runs the same command by hand, in a copy, so that the point's own record stays as it is."""
    variables = {**environment.added, **environment.effective, **environment.requested}
    variables = {name: value for name, value in variables.items() if not secret(name, value)}
    lines = [
        "#!/bin/sh",
        "# Runs this point again by hand in a new folder; the point's own record stays as it is.",
        "set -eu",
        f"cd {shlex.quote(str(Path.cwd()))}",
        "RUN_DIR=$(mktemp -d)",
        f'cp {shlex.quote(str(run_dir / "config.yaml"))} "$RUN_DIR"',
        *(f"unset {shlex.quote(name)}" for name in environment.cleared),
        *(f"export {shlex.quote(name)}={inside(value, run_dir)}" for name, value in sorted(variables.items())),
        'mkdir -p "$RUN_DIR"/attempts/0/logs',
        " ".join(inside(word, run_dir) for word in words),
        'echo "$RUN_DIR"',
    ]
    return "\n".join(lines) + "\n"


def inside(word: str, run_dir: Path) -> str:
    """A word quoted for the shell, with the run directory as $RUN_DIR."""
    return '"$RUN_DIR"'.join(shlex.quote(part) if part else "" for part in word.split(str(run_dir))) or "''"
