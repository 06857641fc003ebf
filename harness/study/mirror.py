"""The W&B mirror of a point, or of a study at its end: started, waited for a little, never allowed to matter."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.files import read_json, write_json
from harness.study.interruption import Interruption
from launch.environment import own
from launch.local import start

PATIENCE_S = 30.0
LAST_WORDS_S = 6.0
POLL_S = 0.05
NO_SERVER = "http://127.0.0.1:1"
"""A port on which nobody listens: connections are refused, as by a server that is down."""


def forsake(old: Path) -> None:
    """Say in mirror.json of a run directory that has been moved away that it is mirrored no more.

    Its mirror, if there is one still, looks for it where it was, finds another there, and ends.
    """
    with suppress(OSError, ValueError):
        state = read_json(old / "mirror.json")
        if state and state.get("state") == "running":
            failed = {"time": time.time(), "state": "failed", "reason": "the point was run again"}
            write_json(old / "mirror.json", {**state, **failed})


class Mirror:
    """A process that repeats records to W&B, by its module and words; not `served`, it finds no server.

    It has `patience_s` to come to its end by itself.
    """

    def __init__(self, words: Sequence[str], log: Path, served: bool = True, patience_s: float = PATIENCE_S) -> None:
        environment = own() if served else {**own(), "WANDB_BASE_URL": NO_SERVER}
        self.patience_s = patience_s
        self.process = start([sys.executable, "-m", *words], environment, log)

    def finish(self, interruption: Interruption) -> None:
        """Let it come to its end by itself for a while, then ask for it, then end it."""
        until = time.monotonic() + self.patience_s
        while self._runs() and interruption.signal is None and time.monotonic() < until:
            time.sleep(POLL_S)
        if self._runs():
            self.process.terminate()
        until = time.monotonic() + LAST_WORDS_S
        while self._runs() and time.monotonic() < min(until, interruption.last_moment):
            time.sleep(POLL_S)
        if self._runs():
            self.process.kill()
            self.process.wait()

    def _runs(self) -> bool:
        return self.process.poll() is None
