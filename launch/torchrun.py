"""The command that starts a point's ranks."""

import shlex
import sys
from pathlib import Path

from launch.environment import SECRET, Environment

WORKER = "harness.worker"
FIRST_HOST = "FIRST_HOST"


def command(run_dir: Path, attempt: int, nodes: int, ranks_per_node: int, device: str, logs: Path) -> list[str]:
    """The command of a point's ranks.

    `device` is what the point was planned on, so that ranks that find no usable GPU fail instead of running on CPUs.
    Over several nodes it is the command of each of them, and the one to meet at has to be filled in.
    """
    program = [WORKER, str(run_dir), f"--attempt={attempt}", f"--device={device}"]
    return ranks(program, run_dir.name, nodes, ranks_per_node, logs)


def ranks(program: list[str], name: str, nodes: int, ranks_per_node: int, logs: Path) -> list[str]:
    """torchrun of a module and its arguments, with one log folder a rank and a rendezvous of its own on a free port."""
    meeting = ["--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--rdzv-backend=c10d",
        *(meeting if nodes == 1 else [f"--rdzv-endpoint={FIRST_HOST}:29400"]),
        f"--rdzv-id={name}",
        f"--nnodes={nodes}",
        f"--nproc-per-node={ranks_per_node}",
        f"--log-dir={logs}",
        "--redirects=3",
        "-m",
        *program,
    ]


def script(words: list[str], environment: Environment, run_dir: Path) -> str:
    """A shell script that runs the same command by hand, in a copy, so that the point's own record stays as it is."""
    variables = {**environment.added, **environment.effective, **environment.requested}
    variables = {name: value for name, value in variables.items() if not SECRET.search(name)}
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
