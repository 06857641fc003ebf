"""events.jsonl: one record a line, written whole, by a thread of its own."""

import json
import math
import queue
import threading
import time
from pathlib import Path
from typing import Any

SCHEMA = 1
WAITING_RECORDS = 10_000
"""Records that may wait for the disk before training waits too."""


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
    """Appends records to a file in the background; `close` writes what is left and raises what went wrong."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.path, self.attempt = path, attempt
        self.waiting: queue.Queue[str | None] = queue.Queue(WAITING_RECORDS)
        self.error: OSError | None = None
        self.thread = threading.Thread(target=self._work, name="event-writer", daemon=True)
        self.thread.start()

    def write(self, kind: str, **record: Any) -> None:
        """Queue one record; the thread that trains does not wait for the disk."""
        whole = {"schema": SCHEMA, "kind": kind, "time": time.time(), "attempt": self.attempt, **record}
        self.waiting.put(json.dumps(finite(whole), allow_nan=False) + "\n")

    def close(self) -> None:
        self.waiting.put(None)
        self.thread.join()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        try:
            # unbuffered, so that a record reaches the file in one write and a kill tears at most the last
            with open(self.path, "ab", buffering=0) as file:
                while (line := self.waiting.get()) is not None:
                    file.write(line.encode())
        except OSError as error:
            self.error = error
            while self.waiting.get() is not None:
                continue
