"""What lies between two steps: checkpoints, and the end that a rank has been told of."""

import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch.distributed as dist

from harness.training.checkpoint import Checkpoints, Tell
from harness.training.interval import Interval
from harness.training.stop import Stop

Pause = Callable[[str], AbstractContextManager[None]]
"""Records a phase of the ledger between two steps."""


def unrecorded(name: str) -> AbstractContextManager[None]:
    return nullcontext()


class Between:
    """Writes checkpoints when they are due, and lets all ranks end after the same step, with a checkpoint of it.

    What only some ranks know (a signal, that seconds are over, that a write has failed) goes with the numbers that
    ranks bring together every few steps anyway: `said` by each, `heard` by all after the same step.
    """

    def __init__(
        self,
        steps: int,
        stop: Stop | None = None,
        pause: Pause = unrecorded,
        tell: Tell | None = None,
        writing: tuple[Checkpoints, Interval] | None = None,
    ) -> None:
        """steps: of the point in all. writing: what writes checkpoints and says when; None where there are none."""
        self.steps, self.stop, self.pause, self.tell = steps, stop, pause, tell
        self.checkpoints: Checkpoints | None = None
        self.interval: Interval | None = None
        if writing is not None:
            self.checkpoints, self.interval = writing
        self.first, self.step = 1, 0
        self.signal, self.failed = 0, False

    def restore(self) -> None:
        """Go on from the newest checkpoint, where there is one."""
        if self.checkpoints is not None:
            self.step = self.checkpoints.restore()
            self.first = self.step + 1

    def said(self) -> list[int]:
        over = self.interval is not None and dist.get_rank() == 0 and self.interval.over(self.step - self.first + 1)
        return [self.stop.signal if self.stop else 0, over, self.checkpoints is not None and self.checkpoints.failing]

    def heard(self, largest: Sequence[int]) -> None:
        self.signal = largest[0]
        if self.interval is not None and largest[1]:
            self.interval.called = True
        self.failed = bool(largest[2])

    def ends_after(self, step: int) -> bool:
        """Write the step's checkpoint where one is due; whether it is the last step, before its time."""
        self.step = step
        if self.stop is not None:
            self.stop.step_ended()
        ends = step < self.steps and (self.failed or self.signal > 0)
        if self.interval is not None and not self.failed and (ends or self.interval.due(step)):
            assert self.checkpoints is not None
            with self.pause("checkpoint_stall"):
                self.interval.written(self.checkpoints.write(step))
            # of a write in the background it is known later
            self.failed = self.checkpoints.error is not None
        ends = step < self.steps and (ends or self.failed)
        if self.stop is not None and step < self.steps and not ends:
            self.stop.step_begins()
        return ends

    def settle(self) -> None:
        """After the last step: wait for what is still being written."""
        if self.checkpoints is not None and self.checkpoints.writing is not None:
            with self.pause("checkpoint_stall"):
                self.checkpoints.wait()

    def close(self) -> None:
        """When all is on record: OSError where a checkpoint could not be written; tell of an end before its time."""
        if self.checkpoints is not None and self.checkpoints.error is not None:
            raise self.checkpoints.error
        if self.step < self.steps and self.tell is not None:
            name = signal.Signals(self.signal).name
            self.tell("preempted", step=self.step, checkpoint=self.checkpoints is not None, signal=name)
