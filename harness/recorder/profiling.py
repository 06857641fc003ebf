"""A profiler around some steps: an observer of the training loop between it and the recorder."""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from harness.recorder.ranges import Ranges
from harness.recorder.recorder import Recorder


class Profiler(Protocol):
    """Looks at what a rank does from `start` to `stop`, each of which takes as long as it takes."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class CapturedByTool:
    """The tool in which this rank runs, as launch.profiled starts it."""

    def start(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.profiler.start()

    def stop(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


class Profiled:
    """The recorder, with a profiler around some steps: `profiler` is None on ranks that are not looked at.

    What starting and stopping take lies between steps, and ranks go on together: else a step that follows would hold
    what one of them took for writing.
    """

    def __init__(self, recorder: Recorder, profiler: Profiler | None, steps: range) -> None:
        self.recorder, self.profiler, self.steps = recorder, profiler, steps

    def before_first_step(self) -> None:
        self.recorder.before_first_step()

    def data_ready(self, step: int) -> None:
        self.recorder.data_ready(step)

    def step_done(self, step: int, lr: float, loss: Tensor, grad_norm: Tensor) -> None:
        self.recorder.step_done(step, lr, loss, grad_norm)
        if step == self.steps[-1]:
            with self.recorder.pause("profiling"):
                if self.profiler is not None:
                    self.profiler.stop()
                dist.barrier()
        elif step + 1 == self.steps[0]:
            with self.recorder.pause("profiling"):
                dist.barrier()
                if self.profiler is not None:
                    self.profiler.start()

    def after_last_step(self) -> None:
        self.recorder.after_last_step()


class Ranged:
    """The same with a range around each step, and around its wait for data."""

    def __init__(self, observer: Profiled, ranges: Ranges, steps: int) -> None:
        self.observer, self.ranges, self.steps = observer, ranges, steps

    def before_first_step(self) -> None:
        self.observer.before_first_step()
        self._open("first step")

    def data_ready(self, step: int) -> None:
        self.ranges.pop()
        self.observer.data_ready(step)

    def step_done(self, step: int, lr: float, loss: Tensor, grad_norm: Tensor) -> None:
        self.ranges.pop()
        self.observer.step_done(step, lr, loss, grad_norm)
        if step < self.steps:
            self._open(f"step {step + 1}")

    def after_last_step(self) -> None:
        self.observer.after_last_step()

    def _open(self, step: str) -> None:
        self.ranges.push(step)
        self.ranges.push("data")
