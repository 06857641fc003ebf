"""Where a rank is, and when it last came on; of rank 0 in progress.json, which outlives a kill.

Records reach events.jsonl some steps late; what was under way when a process was killed stands only in that file, in
one line that is overwritten in place.
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.recorder.events import SCHEMA

WIDTH = 256
"""Bytes of the line, always the same, so that a shorter one leaves nothing of the one before."""


class Progress:
    """One rank's way through an attempt, written to `path` where there is one.

    The thread that trains notes it, and the watchdog's looks at it. Each write is one system call of microseconds into
    memory that the kernel keeps: a killed process can't tear it, as it could a mapped page, nor is a full disk a signal
    that ends training. OSError, with the path, where it fails.
    """

    def __init__(self, path: Path | None, attempt: int, phase: str) -> None:
        self.path, self.attempt, self.phase = path, attempt, phase
        self.moved = time.monotonic()
        self.first: int | None = None
        self.first_time: float | None = None
        self.step: int | None = None
        self.finished: int | None = None
        self.unfinished: deque[tuple[int, Any]] = deque()
        self.passed: Callable[[Any], bool] | None = None
        self.lock = threading.Lock()
        self.file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._write()

    def enter(self, phase: str) -> None:
        """From now on in this phase of the ledger."""
        self.phase = phase
        self.move()
        self._write()

    def move(self) -> None:
        """Note a sign of progress."""
        self.moved = time.monotonic()

    def step_done(self, step: int, end: Any, passed: Callable[[Any], bool]) -> None:
        """The host has issued a step, which ends at the mark `end`; `passed` tells whether the device has."""
        self.phase, self.step, self.passed = "step", step, passed
        if self.first is None:
            self.first = step
        self.unfinished.append((step, end))
        self.settle(passed)

    def settle(self, passed: Callable[[Any], bool]) -> None:
        """Look which steps the device has finished meanwhile."""
        self._look(passed)
        self._write()

    def standing(self) -> tuple[str, float]:
        """The phase, and the seconds since the last sign of progress, which in a step is the device's.

        For another thread than the one that trains; nothing waits for the device.
        """
        if self.passed is not None:
            self._look(self.passed)
        first = self.phase == "step" and self.finished is None and self.step is not None
        return "compile_and_first_step" if first else self.phase, time.monotonic() - self.moved

    def close(self) -> None:
        if self.file is not None:
            os.close(self.file)

    def _look(self, passed: Callable[[Any], bool]) -> None:
        with self.lock:
            while self.unfinished and passed(self.unfinished[0][1]):
                self.finished, _ = self.unfinished.popleft()
                if self.first_time is None:
                    self.first_time = time.time()
                self.move()

    def _write(self) -> None:
        if self.file is None:
            return
        line = json.dumps(
            {
                "schema": SCHEMA,
                "kind": "progress",
                "time": time.time(),
                "attempt": self.attempt,
                "phase": self.phase,
                "first": self.first,
                "first_time": self.first_time,
                "step": self.step,
                "finished": self.finished,
            }
        )
        assert len(line) < WIDTH, line
        try:
            os.pwrite(self.file, f"{line:<{WIDTH - 1}}\n".encode(), 0)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
