"""Named ranges for a profiler: forward, loss, backward and optimizer of a strategy, and the steps around them.

All is attached from outside, on ranks that are profiled alone. A range opens and closes on the thread that trains; of a
backward pass on a GPU, whose kernels another thread launches, it is the time in which that thread is waited for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Protocol

import torch
from torch import nn
from torch.profiler import record_function


class Ranges(Protocol):
    """Ranges inside one another."""

    def push(self, name: str) -> None: ...

    def pop(self) -> None: ...


class TorchRanges:
    """Ranges as PyTorch's profiler records them."""

    def __init__(self) -> None:
        self.open: list[record_function] = []

    def push(self, name: str) -> None:
        self.open.append(record_function(name))
        self.open[-1].__enter__()

    def pop(self) -> None:
        self.open.pop().__exit__(None, None, None)


class NvtxRanges:
    """Ranges as Nsight Systems and Nsight Compute record them."""

    def push(self, name: str) -> None:
        torch.cuda.nvtx.range_push(name)

    def pop(self) -> None:
        torch.cuda.nvtx.range_pop()


@contextmanager
def within(ranges: Ranges, name: str) -> Iterator[None]:
    """A range around what runs inside."""
    ranges.push(name)
    try:
        yield
    finally:
        ranges.pop()


def ranged(ranges: Ranges, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in a range."""

    @wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        with within(ranges, name):
            return function(*arguments, **named)

    return wrapped


def mark(strategy: Any, ranges: Ranges) -> None:
    """Put ranges around what a harness.parallel.strategy.Strategy does in a step, before its first one.

    Around whole parts of the model, so that nothing is inside what is compiled or recomputed, and outermost, so that
    they hold what fully_shard and DeepSpeed do around forward.
    """
    for part in strategy.parts:
        mark_forward(part, ranges)
    strategy.loss = ranged(ranges, "loss", strategy.loss)
    strategy.backward = ranged(ranges, "backward", strategy.backward)
    strategy.update = ranged(ranges, "optimizer", strategy.update)
    if strategy.pipeline is not None:
        mark_pipeline(strategy.pipeline, ranges)


def mark_forward(part: nn.Module, ranges: Ranges) -> None:
    def opens(*_: Any) -> None:
        ranges.push("forward")

    def closes(*_: Any) -> None:
        ranges.pop()

    part.register_forward_pre_hook(opens, prepend=True)
    part.register_forward_hook(closes)


def mark_pipeline(pipeline: Any, ranges: Ranges) -> None:
    """The loss and the backward passes of a pipeline, whose stages are made in the first step."""
    pipeline.loss = ranged(ranges, "loss", pipeline.loss)
    made = pipeline.stage

    def stage(*arguments: Any) -> Any:
        one = made(*arguments)
        for name in ("backward_one_chunk", "backward_weight_one_chunk"):
            setattr(one, name, ranged(ranges, "backward", getattr(one, name)))
        return one

    pipeline.stage = stage
