"""The files that a rank writes into its attempt's folder."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.place import Place
from harness.recorder.events import EventWriter
from harness.recorder.nodes import node_file
from harness.recorder.progress import Progress


class Files:
    """Events on the first rank, and on all ranks their node's file and where they are.

    RuntimeError where an earlier start has left records, which others must not be mixed with.
    """

    def __init__(self, folder: Path, attempt: int, place: Place) -> None:
        self.folder, self.host = folder, socket.gethostname()
        self.events: EventWriter | None = None
        if place.rank == 0:
            if (folder / "events.jsonl").exists():
                raise RuntimeError(
                    f"{folder}: has records of an earlier start, which another one must not be mixed with"
                )
            folder.mkdir(parents=True, exist_ok=True)
            self.events = EventWriter(folder / "events.jsonl", attempt)
        self.progress = Progress(folder / "progress.json" if place.rank == 0 else None, attempt, "rendezvous")
        self.node = EventWriter(node_file(folder, place.node, self.host), attempt)

    def write(self, kind: str, **record: Any) -> None:
        """Write an event, on the first rank; a sign of progress on all."""
        self.progress.move()
        if self.events is not None:
            self.events.write(kind, **record)

    def enter(self, phase: str) -> None:
        """Note that this rank is in this phase of the ledger from now on."""
        self.progress.enter(phase)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record a phase of the ledger around what runs inside, also where that fails."""
        start, begin = time.time(), time.perf_counter()
        self.enter(name)
        try:
            yield
        finally:
            self.write("phase", name=name, start=start, duration_s=time.perf_counter() - begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # a disk that is full hides no other reason of the end
        with suppress(OSError) if error is not None else nullcontext(), ExitStack() as closing:
            closing.callback(self.progress.close)
            if self.events is not None:
                closing.callback(self.events.close)
            closing.callback(self.node.close)
