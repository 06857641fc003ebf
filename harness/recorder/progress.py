"""progress.json: where rank 0 is, in one line that is overwritten in place and outlives a kill.

Records reach events.jsonl some steps late; what was under way when a process was killed stands only here.
"""

import json
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.recorder.events import SCHEMA

WIDTH = 256
"""Bytes of the line, always the same, so that a shorter one leaves nothing of the one before."""


class Progress:
    """The line of one attempt.

    Each write is one system call of microseconds into memory that the kernel keeps: a killed process can't tear it, as
    it could a mapped page, nor is a full disk a signal that ends training. OSError, with the path, where it fails.
    """

    def __init__(self, path: Path, attempt: int, phase: str) -> None:
        self.path, self.attempt, self.phase = path, attempt, phase
        self.first: int | None = None
        self.first_time: float | None = None
        self.step: int | None = None
        self.finished: int | None = None
        self.unfinished: deque[tuple[int, Any]] = deque()
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._write()

    def enter(self, phase: str) -> None:
        """From now on in this phase of the ledger."""
        self.phase = phase
        self._write()

    def step_done(self, step: int, end: Any, passed: Callable[[Any], bool]) -> None:
        """The host has issued a step, which ends at the mark `end`; `passed` tells whether the device has."""
        self.phase, self.step = "step", step
        if self.first is None:
            self.first = step
        self.unfinished.append((step, end))
        self.settle(passed)

    def settle(self, passed: Callable[[Any], bool]) -> None:
        """Look which steps the device has finished meanwhile."""
        while self.unfinished and passed(self.unfinished[0][1]):
            self.finished, _ = self.unfinished.popleft()
            if self.first_time is None:
                self.first_time = time.time()
        self._write()

    def close(self) -> None:
        os.close(self.file)

    def _write(self) -> None:
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
