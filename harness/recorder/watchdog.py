"""Ends a rank that has shown no sign of progress for too long, when it has written down where it stands."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch

from harness.config import Config
from harness.config import Watchdog as Limits
from harness.place import Place
from harness.plan.failures import COMMUNICATION
from harness.recorder.dump import Dump
from harness.recorder.files import Files

LIMITS = {
    "rendezvous": "rendezvous_s",
    "model_build": "model_build_s",
    "restore": "restore_s",
    "compile_and_first_step": "first_step_s",
    "step": "step_s",
    "checkpoint_stall": "checkpoint_s",
    "profiling": "profiling_s",
    "shutdown": "shutdown_s",
}
"""The configured limit of each phase of the ledger that a rank can be in."""

LOOKS = 40
"""How often a limit is looked at while it passes, at most once a second."""

DEFERENCE_S = 3.0
"""How long a rank stays that a collective failed: what its peer died of is said by another host's torchrun, whose
word is lost where this one's ends first."""

PATIENCE_S = 60.0
"""How much longer PyTorch's own timeouts are than the longest limit: they say less, and one rank's ends all."""


def limits(config: Limits) -> dict[str, float]:
    """Seconds by phase."""
    return {phase: getattr(config, field) for phase, field in LIMITS.items()}


def patience(config: Config) -> timedelta:
    """The timeout of process groups under a watchdog."""
    return timedelta(seconds=max(limits(config.watchdog).values()) + PATIENCE_S)


def grace(limit: float) -> float:
    """Seconds from a rank's dump to its end, for the others to write theirs: a launcher ends all with the first."""
    return min(5.0, max(1.0, limit / 8))


class Watchdog:
    """A thread beside training, from the rendezvous to the process's end.

    A rank ends when its phase's limit is over, or half of it where another one's dump is there already: ranks that
    began to wait at different times tell of the same hang. A thread of Python's can't look while C code keeps the
    interpreter; faulthandler, which needs none, then prints the stacks to standard error and ends the process.
    """

    def __init__(self, limits: Mapping[str, float], dump: Dump, place: Place) -> None:
        self.limits, self.dump, self.progress, self.place = limits, dump, dump.progress, place
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        if self.place.cuda:
            # else a first call of CUDA's here would take memory of the first GPU
            torch.cuda.set_device(self.place.device)
        while True:
            phase, waited = self.progress.standing()
            limit = self.limits.get(phase, max(self.limits.values()))
            if waited > limit or (waited > limit / 2 and self.dump.folder.exists()):
                self._end(limit)
            faulthandler.dump_traceback_later(limit - waited + 0.7 * grace(limit), exit=True, file=2)
            time.sleep(min(1.0, limit / LOOKS))

    def _end(self, limit: float) -> None:
        faulthandler.dump_traceback_later(2 * grace(limit), exit=True, file=2)
        begin = time.monotonic()
        self.dump.write("timeout", limit)
        # meanwhile the threads that write records come to their ends
        time.sleep(max(0.0, grace(limit) - (time.monotonic() - begin)))
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(1)


@contextmanager
def watched(
    config: Config, attempt: int, place: Place, files: Files, wait: Callable[[float], None] = time.sleep
) -> Iterator[Dump]:
    """Watch this rank until its process ends; its dump, which is to be told the labels of the mesh's groups.

    It is written too where an exception of a collective or for want of memory ends what runs inside.

    wait: waits so many seconds, less where this rank is told to end.
    """
    dump = Dump(files.folder / "flight", attempt, place, files.host, files.progress)
    Watchdog(limits(config.watchdog), dump, place)
    try:
        yield dump
    except (torch.OutOfMemoryError, MemoryError) as error:
        dump.write("oom", error=error)
        raise
    except RuntimeError as error:
        # what c10d raises; its own types are some of these only
        dump.write("oom" if "can't allocate memory" in str(error) else "error", error=error)
        if place.nodes > 1 and COMMUNICATION.search(f"{type(error).__name__}: {error}"):
            wait(DEFERENCE_S)
        raise
