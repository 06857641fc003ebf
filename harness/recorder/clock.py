"""When things happened on the device: marks now, seconds between them later."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Marks in the order of the device's work, which the host reads without holding it up."""

    lag: int
    """Steps that a reader stays behind the host, so that reading never drains the device's queue."""

    def mark(self) -> Any: ...

    def settle(self, mark: Any) -> None:
        """Wait until the device has passed the mark."""

    def passed(self, mark: Any) -> bool:
        """Whether the device has passed the mark, without waiting."""

    def seconds(self, first: Any, second: Any) -> float:
        """Seconds from one settled mark to a later one."""


class HostClock:
    """Marks of the host's monotonic clock: on a CPU the host does the work itself."""

    lag = 0

    def mark(self) -> float:
        return time.perf_counter()

    def settle(self, mark: float) -> None:
        pass

    def passed(self, mark: float) -> bool:
        return True

    def seconds(self, first: float, second: float) -> float:
        return second - first


class CudaClock:
    """Marks as CUDA events on the current stream."""

    lag = 2

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def settle(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()

    def passed(self, mark: torch.cuda.Event) -> bool:
        return mark.query()

    def seconds(self, first: torch.cuda.Event, second: torch.cuda.Event) -> float:
        return first.elapsed_time(second) / 1e3
