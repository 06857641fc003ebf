"""How long steps take, seen in the same way with a recorder and without one."""

from itertools import pairwise
from typing import Any, Self

from torch import Tensor

from harness.recorder.clock import Clock
from harness.training.loop import Observer


class Stopwatch:
    """An observer that marks the end of each step and reads its marks when training is over.

    Another observer that it stands around does its work between one mark and the next.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.inner: Observer | None = None
        self.marks: list[Any] = []

    def around(self, inner: Observer) -> Self:
        self.inner = inner
        return self

    def before_first_step(self) -> None:
        if self.inner is not None:
            self.inner.before_first_step()
        self.marks.append(self.clock.mark())

    def data_ready(self, step: int) -> None:
        if self.inner is not None:
            self.inner.data_ready(step)

    def step_done(self, step: int, lr: float, loss: Tensor, grad_norm: Tensor) -> None:
        self.marks.append(self.clock.mark())
        if self.inner is not None:
            self.inner.step_done(step, lr, loss, grad_norm)

    def after_last_step(self) -> None:
        if self.inner is not None:
            self.inner.after_last_step()
        self.clock.settle(self.marks[-1])

    def seconds(self) -> list[float]:
        """From the end of each step's predecessor to its own end."""
        return [self.clock.seconds(first, second) for first, second in pairwise(self.marks)]
