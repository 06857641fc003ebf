"""How far an attempt is, and how fast it goes, while its record grows."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.quantities import gigabytes, left, loss, number
from harness.records import Appended


class Pace:
    """Of one attempt, by the window of the rank that takes longest for it, as in the report.

    `step` is the latest step, or of collectives alone how many figures there are.
    """

    def __init__(self, attempt_dir: Path) -> None:
        self._appended = Appended(attempt_dir)
        self.step = 0
        self._loss: float | None = None
        self._fastest: tuple[float, str] | None = None
        self._timed = self._tokens = 0
        # seconds of the measured steps on rank 0; on the slowest rank they last this many times as long
        self._seconds, self._stretch = 0.0, 1.0
        self._recent: list[tuple[int, float]] = []

    def read_on(self) -> None:
        """Take what was written since the last call."""
        for record in self._appended.new():
            with suppress(TypeError, ValueError):  # of another type than the schema's: the report says so
                self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        if record["kind"] == "step":
            step, tokens, seconds = int(record["step"]), int(record["tokens"]), float(record["duration_s"])
            self._loss = self._loss if record["loss"] is None else float(record["loss"])
            self.step = step
            if record["role"] == "measured":
                self._timed += 1
                self._tokens += tokens
                self._seconds += seconds
                self._recent.append((step, seconds))
        elif record["kind"] == "ranks":
            last, window_s = int(record["step_last"]), float(record["window_s"])
            self._recent = [(step, seconds) for step, seconds in self._recent if step > last]
            own = self._seconds - sum(seconds for _, seconds in self._recent)
            self._stretch = window_s / own if own > 0 and window_s else 1.0
        elif record["kind"] == "benchmark":
            self._fastest = max(self._fastest or (0.0, ""), (float(record["busbw"]), str(record["op"])))
            self.step += 1

    @property
    def step_s(self) -> float | None:
        """Seconds of a measured step."""
        return self._seconds * self._stretch / self._timed if self._timed and self._seconds else None

    @property
    def tokens_per_s(self) -> float | None:
        return self._tokens / (self._timed * self.step_s) if self.step_s else None

    def figures(self) -> list[str]:
        """Speed and loss in words, as far as they are known."""
        told = [f"{number(self.tokens_per_s)} tokens/s"] if self.tokens_per_s else []
        if self._fastest:
            busbw, op = self._fastest
            told.append(f"{op} up to {gigabytes(busbw)} GB/s busbw")
        return told + ([f"loss {loss(self._loss)}"] if self._loss is not None else [])

    def words(self, steps: int | None, goes_on: bool = True) -> str:
        """The same for one of so many steps: `step 3 of 20  1,280 tokens/s  17 s left`, the last where it goes on.

        Empty before the first. Where nobody knows how many there are to be, it is only told how many there are.
        """
        if not self.step:
            return ""
        of = f" of {steps:,}" if steps else ""
        told = [f"{'figure' if self._fastest else 'step'} {self.step:,}{of}", *self.figures()]
        if goes_on and steps and self.step_s and self.step < steps:
            told.append(left((steps - self.step) * self.step_s))
        return "  ".join(told)
