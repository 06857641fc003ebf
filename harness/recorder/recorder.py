"""What watches a point's training: marks every step, samples some, writes the records."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from harness.plan.window import role
from harness.recorder.clock import Clock
from harness.recorder.events import EventWriter
from harness.recorder.exchange import RANK_BITS, Exchange, Pending
from harness.recorder.graphs import graphs
from harness.recorder.operations import StepOperations
from harness.recorder.progress import Progress
from harness.recorder.sample import Window
from harness.recorder.samples import Samples

FLUSH_STEPS = 5
"""Steps between two times that numbers are brought together over the ranks."""


class Diverged(ArithmeticError):
    """The loss or the gradient norm is no longer a finite number."""


class Sampler(Protocol):
    """Tells a step's collectives, on every rank; what it does itself lies between steps."""

    def before_sampled_step(self, step: int) -> None: ...

    def after_sampled_step(self, step: int) -> Sequence[StepOperations]: ...

    def step_issued(self, step: int, began: int) -> None: ...


class Council(Protocol):
    """Numbers beside those of steps: what each rank has to say, and some steps later of each number the largest.

    All ranks hear the same after the same step.
    """

    def said(self) -> list[int]: ...

    def heard(self, largest: Sequence[int]) -> None: ...


@dataclass(frozen=True)
class Pause:
    """Time between two steps that was given to something else, under its name in the ledger."""

    name: str
    begin: Any
    end: Any


@dataclass
class StepMarks:
    """A step as it was marked: device marks, the pauses before it, and values still on the device."""

    step: int
    begin: Any
    data: Any
    end: Any
    lr: float
    loss: Tensor
    grad_norm: Tensor
    pauses: list[Pause] = field(default_factory=list)


@dataclass
class Flush:
    """Steps whose numbers are on their way from all ranks, with this rank's own times in seconds."""

    steps: list[StepMarks]
    starts: list[float]
    durations: list[float]
    waits: list[float]
    integers: Pending
    floats: Pending


class Recorder:
    """An observer of the training loop on every rank; rank 0 writes.

    Steps tile the time on the device from the first mark to the last. Between two steps lie what the recorder does
    itself, recorded as `profiling`, and the pauses that others ask for.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        sampler: Sampler,
        exchange: Exchange,
        samples: Samples,
        writer: EventWriter | None,
        device: torch.device,
        warmup: int,
        steps: int,
        sample_every: int,
        tokens_per_step: int,
        compiled: bool,
        profiled: range = range(0),
        progress: Progress | None = None,
    ) -> None:
        self.clock, self.sampler, self.exchange = clock, sampler, exchange
        self.samples, self.writer, self.progress = samples, writer, progress
        self.device, self.rank, self.world_size = device, dist.get_rank(), dist.get_world_size()
        self.warmup, self.steps, self.sample_every = warmup, steps, sample_every
        self.tokens_per_step, self.compiled, self.profiled = tokens_per_step, compiled, profiled
        self.first, self.done = 1, 0
        self.council: Council | None = None
        self.begin: Any = None
        self.began = 0
        self.window_ns = 0
        self.pauses: list[Pause] = []
        self.untold: list[Pause] = []
        self.marked: list[StepMarks] = []
        self.flushed: list[Flush] = []

    def begin_at(self, step: int, council: Council) -> None:
        """The attempt's first step, and who is to hear what the ranks say."""
        self.first, self.done, self.council = step, step - 1, council
        if self.profiled and step >= self.profiled[0]:
            self.profiled = range(0)  # its start is past

    def write(self, kind: str, **record: Any) -> None:
        if self.writer is not None:
            self.writer.write(kind, **record)

    @contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """Record a phase of the ledger between two steps: after `step_done`, before the next `data_ready`.

        On every rank; its time is the device's, and part of no step. What the steps so far have to tell is in the file
        before: a checkpoint is not to hold a step that a kill could still take from the record.
        """
        self._bring_home()
        if self.writer is not None:
            self.writer.flush()
        begin = self.clock.mark()
        self._enter(name)
        try:
            yield
        finally:
            self._begin()
            self._enter("step")
            pause = Pause(name, begin, self.begin)
            self.pauses.append(pause)
            self.untold.append(pause)
            self._tell_pauses()

    def before_first_step(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self._enter("compile_and_first_step")
        self.time = time.time()
        self._begin()
        self.last = self.begin

    def data_ready(self, step: int) -> None:
        self.data = self.clock.mark()

    def step_done(self, step: int, lr: float, loss: Tensor, grad_norm: Tensor) -> None:
        end = self.clock.mark()
        self.sampler.step_issued(step, self.began)
        begin, began = self.begin, self.began
        self.marked.append(StepMarks(step, begin, self.data, end, lr, loss, grad_norm, self.pauses))
        self.begin, self.began, self.pauses, self.done = end, time.time_ns(), [], step
        if self.progress is not None:
            self.progress.step_done(step, end, self.clock.passed)
        self._tell_pauses()
        sampled, next_sampled = self._sampled(step), step < self.steps and self._sampled(step + 1)
        if step % FLUSH_STEPS and not sampled and not next_sampled:
            return
        accounts = self.sampler.after_sampled_step(step) if sampled else []
        if step % FLUSH_STEPS == 0:
            self._flush(self.clock.lag)
        for told in accounts:
            window = None
            if told.timeline is not None:
                self.clock.settle(end)
                window = Window(began, self.clock.seconds(begin, end))
            self.samples.add(told, window)
        if next_sampled:
            self.exchange.settle()
            self.sampler.before_sampled_step(step + 1)
        self._begin()

    def after_last_step(self) -> None:
        """Bring home what is still on its way."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self._bring_home()
        self.samples.finish()
        now = self.clock.mark()
        self.clock.settle(now)
        self._tell_pauses()
        self._tell_profiling(self.pauses, now)
        if self.progress is not None:
            self.progress.settle(self.clock.passed)
            self.progress.enter("shutdown")
        if self.done < self.steps:
            return
        made = graphs() if self.compiled else {"graph_breaks": None, "compiled_graphs": None}
        self.write("end", steps=self.steps, tokens=self.steps * self.tokens_per_step, **made)

    def _sampled(self, step: int) -> bool:
        return self._role(step) == "sampled"

    def _role(self, step: int) -> str:
        return role(step, self.warmup, self.sample_every, self.profiled, self.first)

    def _begin(self) -> None:
        """The next step begins now: on the device, and on the host in nanoseconds since the epoch."""
        self.begin, self.began = self.clock.mark(), time.time_ns()

    def _enter(self, phase: str) -> None:
        if self.progress is not None:
            self.progress.enter(phase)

    def _tell_pauses(self) -> None:
        """Write the pauses that the device has passed; early, for a kill loses what is not written."""
        while self.untold and self.clock.passed(self.untold[0].end):
            pause = self.untold.pop(0)
            self._tell(pause.name, pause.begin, pause.end)

    def _tell_profiling(self, pauses: list[Pause], until: Any) -> None:
        """Write what lies between the last step and a mark outside of pauses: the recorder's own time."""
        begin = self.last
        for pause in pauses:
            self._tell("profiling", begin, pause.begin)
            begin = pause.end
        self._tell("profiling", begin, until)

    def _tell(self, name: str, begin: Any, end: Any) -> None:
        """Write a phase between two settled marks, none of them before the last flushed step's end."""
        duration = self.clock.seconds(begin, end)
        if duration > 0:
            start = self.time + self.clock.seconds(self.last, begin)
            self.write("phase", name=name, start=start, duration_s=duration)

    def _bring_home(self) -> None:
        """Write all steps so far, and wait for their numbers."""
        self._flush(0)
        while self.flushed:
            self._emit(self.flushed.pop(0))

    def _flush(self, lag: int) -> None:
        """Send off the steps that the device has finished; write those that came home."""
        while self.flushed:
            self._emit(self.flushed.pop(0))
        self.samples.advance()
        count = len(self.marked) - lag
        if count <= 0:
            return
        steps, self.marked = self.marked[:count], self.marked[count:]
        self.clock.settle(steps[-1].end)
        self._tell_pauses()
        starts, durations, waits = [], [], []
        for marks in steps:
            self._tell_profiling(marks.pauses, marks.begin)
            starts.append(self.time + self.clock.seconds(self.last, marks.begin))
            durations.append(self.clock.seconds(marks.begin, marks.end))
            waits.append(self.clock.seconds(marks.begin, marks.data))
            self.time = starts[-1] + durations[-1]
            self.last = marks.end
        nanoseconds = [round(duration * 1e9) for duration in durations]
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        self.window_ns += sum(n for n, m in zip(nanoseconds, steps, strict=True) if self._role(m.step) == "measured")
        slowest, fastest = [(n << RANK_BITS) | self.rank for n in nanoseconds], [-n for n in nanoseconds]
        said = self.council.said() if self.council is not None else []
        integers = [*slowest, *fastest, self.window_ns, *said, peak]
        floats = torch.stack([m.loss.double() for m in steps] + [m.grad_norm.double() for m in steps])
        self.flushed.append(
            Flush(
                steps,
                starts,
                durations,
                waits,
                self.exchange.reduce(torch.tensor(integers, dtype=torch.int64), dist.ReduceOp.MAX),
                self.exchange.reduce(floats / self.world_size, dist.ReduceOp.SUM),
            )
        )

    def _emit(self, flush: Flush) -> None:
        """Write the records of steps whose numbers have come from all ranks."""
        integers, floats = flush.integers.result().tolist(), flush.floats.result().tolist()
        count = len(flush.steps)
        peak = integers[-1] if self.device.type == "cuda" else None
        if self.council is not None:
            self.council.heard(integers[2 * count + 1 : -1])
        for index, marks in enumerate(flush.steps):
            loss, grad_norm = floats[index], floats[count + index]
            self.write(
                "step",
                step=marks.step,
                role=self._role(marks.step),
                start=flush.starts[index],
                duration_s=flush.durations[index],
                data_s=flush.waits[index],
                tokens=self.tokens_per_step,
                loss=loss,
                grad_norm=grad_norm,
                lr=marks.lr,
                peak_memory_bytes=peak,
            )
            for name, value in (("loss", loss), ("gradient norm", grad_norm)):
                if not math.isfinite(value):
                    raise Diverged(f"the {name} is {value} at step {marks.step}; try a lower optimizer.lr")
        self.write(
            "ranks",
            step_first=flush.steps[0].step,
            step_last=flush.steps[-1].step,
            duration_max_s=[(value >> RANK_BITS) / 1e9 for value in integers[:count]],
            duration_min_s=[-value / 1e9 for value in integers[count : 2 * count]],
            slowest_rank=[value & ((1 << RANK_BITS) - 1) for value in integers[:count]],
            window_s=integers[2 * count] / 1e9,
            peak_memory_bytes=peak,
        )
