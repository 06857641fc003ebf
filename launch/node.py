"""One host's part of a point over several: agree on where to meet, then become torchrun.

Started by srun, one task a host. The first host takes a port that is free there and writes it beside the attempt; the
others wait for that.
"""

import argparse
import errno
import json
import os
import random
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from launch.devices import nvidia
from launch.environment import threads
from launch.torchrun import logged

WAIT_S = 900.0  # the first host may have to import an image before
FOLDER_S = 60.0
POLL_S = 0.05
PORTS = range(20000, 30000)


def main() -> None:
    parser = argparse.ArgumentParser(prog="launch.node", description="One host's part of a point.")
    parser.add_argument("attempt_dir", type=Path, help="the attempt's folder, which all hosts see")
    parser.add_argument("address", help="where the first host is reached")
    parser.add_argument("torchrun", nargs="+", help="torchrun's own words")
    arguments = parser.parse_args()
    number, meeting = int(os.environ["SLURM_NODEID"]), arguments.attempt_dir / "meeting.json"
    if number == 0:
        open_meeting(meeting, arguments.address)
    endpoint = find_meeting(meeting)
    # ranks follow the order of these words; only the first has to be an address
    own = arguments.address if number == 0 else f"~{number:06d}"
    # torchrun would guess by host names and addresses which host it is
    hosting = f"--rdzv-conf=is_host={int(number == 0)}"
    meet = [f"--rdzv-endpoint={endpoint}", hosting, f"--local-addr={own}"]
    write_here(arguments.attempt_dir / "logs" / f"node{number}.log")
    words = [*meet, logged(arguments.attempt_dir / "logs", number), *arguments.torchrun]
    # a step's cores need not be its controller's
    os.environ["OMP_NUM_THREADS"] = str(threads(len(nvidia()[0])))
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *words])


def open_meeting(path: Path, address: str) -> None:
    """Say where to meet: on this host, at a port that is free."""
    port = free_port(address)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"address": address, "port": port, "step": step()}) + "\n")
    draft.rename(path)


def free_port(address: str) -> int:
    """A port that nobody listens at, out of those that connections are not given by themselves.

    Ends the process, one sentence, where this host has no such address.
    """
    while True:
        port = random.choice(PORTS)
        try:
            socket.create_server((address, port)).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            here = socket.gethostname()
            sys.exit(f"{here}: cannot listen at {address}, which Slurm has as its NodeAddr ({error.strerror})")
        return port


def find_meeting(path: Path) -> str:
    """Where to meet, once the first host has said so. Ends the process, one sentence, where it does not."""
    begin = time.monotonic()
    while time.monotonic() - begin < (WAIT_S if path.parent.is_dir() else FOLDER_S):
        if path.exists():
            said = json.loads(path.read_text())
            if said["step"] == step():
                return f"{said['address']}:{said['port']}"
        time.sleep(POLL_S)
        # what a file server remembers of a folder can be old
        with suppress(OSError):
            os.listdir(path.parent)
    sys.exit(f"{socket.gethostname()}: sees no {path} of the first host; the study's folder must be on all hosts")


def write_here(path: Path) -> None:
    """From now on write into a log of this host: what torchruns of several hosts say at once cannot be told apart."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())


def step() -> str:
    """The Slurm step that this process is a task of."""
    return f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"


if __name__ == "__main__":
    main()
