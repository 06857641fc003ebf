"""What a host says of itself before a point starts there. Started by srun, one task a host, and without torch."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.allocation import Host
from launch.devices import Gpu, Machine, machine
from launch.environment import own
from launch.profiled import TOOLS
from launch.srun import for_some, step

ANSWER_S = 60.0


@dataclass(frozen=True)
class Seen:
    """One host's answer: its number in the step, its clock, what it has, whether it sees a file.

    profilers: the programs for that which are on its PATH.
    """

    number: int
    time: float
    machine: Machine
    sees: bool
    profilers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What hosts answered, in their order, and between which of our own times."""

    asked: float
    answered: float
    seen: tuple[Seen, ...]


def ask(hosts: Sequence[Host], path: Path) -> Answers:
    """Every host's answer. ValueError, one sentence, where one does not answer."""
    asked = time.time()
    try:
        done = subprocess.run(
            # also beside a step that a killed controller has left
            step(hosts, [sys.executable, "-m", "launch.probe", str(path)], ["--overlap"]),
            env=for_some(own()),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{named(hosts)}: not all of these hosts answered within {ANSWER_S:.0f} s") from None
    answered = time.time()
    if done.returncode:
        raise ValueError(f"{named(hosts)}: not all of these hosts answered: {complaint(done.stderr)}")
    seen = [read(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Answers(asked, answered, tuple(sorted(seen, key=lambda one: one.number)))


def complaint(said: str) -> str:
    """What srun complains of first; before that it may have remarks."""
    lines = said.strip().splitlines()
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "srun failed")


def read(line: str) -> Seen:
    told = json.loads(line)
    gpus = tuple(Gpu(**gpu) for gpu in told["machine"]["gpus"])
    there = Machine(**{**told["machine"], "gpus": gpus})
    return Seen(told["number"], told["time"], there, told["sees"], tuple(told["profilers"]))


def named(hosts: Sequence[Host]) -> str:
    return ", ".join(host.name for host in hosts)


def look(path: Path) -> Seen:
    """What this host has."""
    # what a file server remembers of a folder can be old
    sees = path.parent.is_dir() and path.name in os.listdir(path.parent)
    profilers = tuple(name for name in TOOLS if shutil.which(name))
    return Seen(int(os.environ["SLURM_NODEID"]), time.time(), machine(), sees, profilers)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(look(Path(sys.argv[1])))) + "\n")
