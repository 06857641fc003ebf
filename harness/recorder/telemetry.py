"""Every few seconds, what a node's devices say of themselves, by a thread of its first rank."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from harness.recorder.counters import interfaces, ports
from harness.recorder.events import EventWriter
from harness.recorder.nvml import Gpus
from harness.recorder.processor import Processor

PATIENCE_S = 5.0
"""How long the end of training waits for the last poll: a driver that hangs must not hold it up."""


class Telemetry:
    """Polls at once, every `every_s` seconds, and as it stops; one record a poll.

    uuids: those of the ranks' GPUs in the order of local ranks, none on a node without GPUs. Nothing that goes wrong
    here reaches training: what could not be read is null, and the record says why in `warning`, once a reason.
    """

    def __init__(self, writer: EventWriter, host: str, node: int, uuids: Sequence[str], rank: int, every_s: float):
        self.writer, self.host, self.node, self.every_s = writer, host, node, every_s
        self.gpus = Gpus(uuids, rank)
        self.parts: dict[str, Callable[[], Any]] = {
            "gpus": self.gpus.read,
            "ports": ports,
            "interfaces": interfaces,
            "cpu": Processor().read,
        }
        self.told: set[str] = set()
        self.leaving = threading.Event()
        self.thread = threading.Thread(target=self._work, name="telemetry", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Have the last poll."""
        self.leaving.set()
        self.thread.join(PATIENCE_S)

    def poll(self) -> dict[str, Any]:
        """A record's fields; null for each part that cannot be read."""
        found: dict[str, Any] = {}
        problems: set[str] = set()
        now, begin = time.time(), time.perf_counter()
        for part, read in self.parts.items():
            try:
                found[part] = read()
            except Exception as error:
                found[part] = None
                problems.add(f"{part}: {type(error).__name__}: {error}")
        problems |= self.gpus.problems
        new = sorted(problems - self.told)
        self.told |= problems
        return {
            "time": now,
            "host": self.host,
            "node": self.node,
            **found,
            "warning": "; ".join(new) or None,
            "duration_s": time.perf_counter() - begin,
        }

    def _work(self) -> None:
        with suppress(OSError):  # raised where the rank writes its own records, or closes them
            while not self.leaving.is_set():
                self.writer.write("telemetry", **self.poll())
                self.leaving.wait(self.every_s)
            self.writer.write("telemetry", **self.poll())
