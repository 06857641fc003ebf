"""events.jsonl: one record a line, written whole, by a thread of its own."""

import json
import math
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

SCHEMA = 1
WAITING_RECORDS = 10_000
"""Records that may wait for the disk before training waits too."""

GATHER_S = 0.5
"""How long records gather before they are written: woken for each, the thread here takes the interpreter's lock and a
core from the one that trains, in the middle of its step."""


def finite(value: Any) -> Any:
    """The value as JSON can hold it: numbers that are not finite become null, in lists and mappings too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


class EventWriter:
    """Appends records to a file in the background.

    What goes wrong there is raised by the next `write`, so that no run goes on without its records, by `flush`, which
    waits until all of them are on the disk, and by `close`, which writes what is left.
    """

    def __init__(self, path: Path, attempt: int) -> None:
        self.path, self.attempt = path, attempt
        self.waiting: queue.Queue[str | threading.Event | None] = queue.Queue(WAITING_RECORDS)
        self.hurry = threading.Event()
        self.error: OSError | None = None
        self.thread = threading.Thread(target=self._work, name="event-writer", daemon=True)
        self.thread.start()

    def write(self, kind: str, **record: Any) -> None:
        """Queue one record; the thread that trains does not wait for the disk."""
        if self.error is not None:
            raise self.error
        whole = {"schema": SCHEMA, "kind": kind, "time": time.time(), "attempt": self.attempt, **record}
        self.waiting.put(json.dumps(finite(whole), allow_nan=False) + "\n")

    def flush(self) -> None:
        written = threading.Event()
        self.waiting.put(written)
        self.hurry.set()
        written.wait()
        if self.error is not None:
            raise self.error
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        self.waiting.put(None)
        self.hurry.set()
        self.thread.join()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        try:
            # unbuffered, so that a record reaches the file in one write and a kill tears at most the last
            with open(self.path, "a+b", buffering=0) as file:
                if torn(file):
                    append(file, b"\n")
                for line in self._lines():
                    append(file, line)
        except OSError as error:
            self.error = OSError(error.errno, error.strerror, str(self.path))
            for _ in self._lines():
                continue

    def _lines(self) -> Iterator[bytes]:
        """What comes to be written; whoever waits for the end of what came before is told of it."""
        while True:
            self.hurry.wait(GATHER_S)
            self.hurry.clear()
            while not self.waiting.empty():
                if (came := self.waiting.get()) is None:
                    return
                if isinstance(came, threading.Event):
                    came.set()
                else:
                    yield came.encode()


def torn(file: FileIO) -> bool:
    """Whether the file ends in the middle of a line, as of a writer that was killed."""
    size = os.fstat(file.fileno()).st_size
    return size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"


def append(file: FileIO, line: bytes) -> None:
    """Add a line, whole or not at all: a disk that becomes full within it has its part taken away again."""
    start = os.fstat(file.fileno()).st_size
    try:
        written = 0
        while written < len(line):
            written += file.write(line[written:])
    except OSError:
        with suppress(OSError):
            os.ftruncate(file.fileno(), start)
        raise
