"""What a running point has recorded so far, read on as it grows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Events:
    """The records of an events.jsonl; each call of `new` gives those written since the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0

    def new(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(whole) + len(newline)
        for line in whole.splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # a full disk can cut a line short
                continue
            if isinstance(record, dict) and "kind" in record:
                yield record


class Pace:
    """How far training is and how fast it goes, for a person's eye; reports do their own, careful arithmetic."""

    def __init__(self, events: Path) -> None:
        self.events = Events(events)
        self.step = 0
        self.loss: float | None = None
        self.fastest: tuple[float, str] | None = None
        self._measured: dict[int, tuple[int, float]] = {}

    def read_on(self) -> None:
        for record in self.events.new():
            if record["kind"] == "step":
                self.step = record["step"]
                self.loss = record["loss"]
                if record["role"] == "measured":
                    self._measured[record["step"]] = record["tokens"], record["duration_s"]
            elif record["kind"] == "benchmark":
                self.step += 1
                self.fastest = max(self.fastest or (0.0, ""), (record["busbw"], record["op"]))
            elif record["kind"] == "ranks":
                for step, slowest in enumerate(record["duration_max_s"], record["step_first"]):
                    if step in self._measured:
                        self._measured[step] = self._measured[step][0], slowest

    @property
    def step_s(self) -> float | None:
        """Seconds of a measured step, of its slowest rank where that is known."""
        seconds = [duration for _, duration in self._measured.values()]
        return sum(seconds) / len(seconds) if seconds else None

    def figures(self) -> list[str]:
        """Speed and loss in words, as far as they are known."""
        speed = [f"{self.tokens_per_s:,.0f} tokens/s"] if self.tokens_per_s else []
        if self.fastest:
            busbw, op = self.fastest
            speed.append(f"{op} up to {busbw / 1e9:.3g} GB/s busbw")
        return speed + ([f"loss {self.loss:.4g}"] if self.loss is not None else [])

    @property
    def tokens_per_s(self) -> float | None:
        seconds = sum(duration for _, duration in self._measured.values())
        return sum(tokens for tokens, _ in self._measured.values()) / seconds if seconds else None
