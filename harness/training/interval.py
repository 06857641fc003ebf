"""When the next checkpoint is due."""

import time

from harness.config import Checkpoint
from harness.plan.checkpoint import best_interval, failure_seconds


class Interval:
    """Counts steps, or on the first rank seconds.

    A step is known to all ranks by itself. Of seconds the first rank tells the others that they are over (`over`), once
    for each checkpoint, and all write when all have heard it (`called`).
    """

    def __init__(self, chosen: Checkpoint, ranks: int, warmup: int) -> None:
        self.chosen, self.warmup = chosen, warmup
        self.failure_s = failure_seconds(chosen, ranks)
        self.seconds = chosen.every if chosen.kind == "seconds" else None
        self.began = time.monotonic()
        self.asked = self.called = False

    def over(self, steps: int) -> bool:
        """Whether the others are to be told now, `steps` into the attempt: with auto at once where nothing is known."""
        if self.chosen.kind not in ("seconds", "auto") or self.asked:
            return False
        if self.seconds is None:
            self.asked = steps > self.warmup
        else:
            self.asked = time.monotonic() - self.began >= self.seconds
        return self.asked

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be written after this step; the same on all ranks."""
        if self.chosen.kind == "steps":
            assert self.chosen.every is not None
            return step % int(self.chosen.every) == 0
        return self.called

    def written(self, stall_s: float) -> None:
        """A checkpoint has been written, and training has waited for it: begin to count anew."""
        if self.chosen.kind == "auto":
            self.seconds = best_interval(stall_s, self.failure_s)
        self.began = time.monotonic()
        self.asked = self.called = False
