"""A command on this machine and every process that comes of it, until none is left.

torchrun starts its ranks in sessions of their own and ranks may start processes too, so neither a process group nor a
parent leads to all of them. All inherit the marker variable, and by it they are found.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from launch.environment import MARKER, Environment

GRACE_S = 5.0
KILL_S = 4.0
BREATH_S = 0.05


class Tree:
    """A started command, ended at the end of `with`.

    started: the time just before it was executed. silent: hosts that did not say whether something is left there.
    """

    def __init__(self, command: list[str], environment: Environment, log: Path) -> None:
        self.silent: list[str] = []
        self.marker = environment.variables[MARKER]
        self.started = time.time()
        self.process = start(command, environment.variables, log)

    def __enter__(self) -> "Tree":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def poll(self) -> int | None:
        """The command's exit code, or None while it runs."""
        return self.process.poll()

    def tell(self) -> None:
        """Have ranks come to an end by themselves.

        torchrun passes the signal on to them, and so does srun to torchruns, which SIGTERM would have it kill.
        """
        self.process.send_signal(signal.SIGUSR2)

    def end(self) -> list[str]:
        """Ask the command to end, then kill what is left; what even that did not end, in words.

        Reaps the command itself. Takes at most ten seconds.
        """
        if self.poll() is None:
            self.process.terminate()
            until = time.monotonic() + GRACE_S
            while time.monotonic() < until and (self.poll() is None or marked(self.marker)):
                time.sleep(BREATH_S)
        left = end_marked(self.marker)
        self.poll()
        return told(left)


def carriers() -> Iterator[tuple[psutil.Process, str]]:
    """Every live process of this user that carries a marker, with it."""
    for process in psutil.process_iter():
        try:
            marker = process.environ().get(MARKER)
        except psutil.Error:  # gone meanwhile, or somebody else's
            continue
        if marker:
            yield process, marker


def markers() -> set[str]:
    """The markers of all live processes of this user."""
    return {marker for _, marker in carriers()}


def marked(marker: str) -> list[psutil.Process]:
    """Every live process of this user that carries the marker."""
    return [process for process, carried in carriers() if carried == marker]


def end_marked(marker: str) -> list[int]:
    """Kill every process that carries the marker; the ids of those still there after some seconds."""
    until = time.monotonic() + KILL_S
    while (left := marked(marker)) and time.monotonic() < until:
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(BREATH_S)
    return [process.pid for process in left]


def told(left: list[int]) -> list[str]:
    """Processes in words."""
    return [f"process {pid}" for pid in left]


def start(command: list[str], variables: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, out of reach of the terminal's Ctrl-C; its output goes to the log."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
