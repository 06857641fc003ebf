"""NCCL's collectives of a step, from PyTorch's flight recorder with timing on."""

import pickle
import time
from collections import deque
from math import prod
from typing import Any

import torch

from harness.recorder.operations import Operation, StepOperations

NAMES = {
    "nccl:all_reduce": "all_reduce",
    "nccl:all_reduce_coalesced": "all_reduce",
    "nccl:all_gather": "all_gather",
    "nccl:_all_gather_base": "all_gather",
    "nccl:all_gather_into_tensor_coalesced": "all_gather",
    "nccl:reduce_scatter": "reduce_scatter",
    "nccl:_reduce_scatter_base": "reduce_scatter",
    "nccl:reduce_scatter_tensor_coalesced": "reduce_scatter",
    "nccl:all_to_all": "all_to_all",
    "nccl:broadcast": "broadcast",
    "nccl:_broadcast_oop": "broadcast",
}
STEPS_BACK = 5
"""How far behind the host the step lies that is read."""

PATIENCE_S = 0.3
"""How long to wait for durations: they come from the watchdog's thread, up to 100 ms after a collective has ended."""

WIDTHS = {"Float": 4, "Double": 8, "BFloat16": 2, "Half": 2, "Int": 4, "Long": 8, "Byte": 1, "Char": 1, "Bool": 1}
"""Bytes of one element by the name the flight recorder gives its type."""


class FlightRecorderSampler:
    """Reads the recorder's ring before a sampled step, about one that lies far enough back to be timed.

    The recorder is always on, so the step it tells of is an ordinary one; the sampled step is the one that
    the dump, which holds the interpreter for some 20 ms, may disturb.
    """

    source = "flight_recorder"

    def __init__(self, group: str, group_size: int) -> None:
        self.group, self.group_size = group, group_size
        self.issued: deque[tuple[int, int, int]] = deque(maxlen=STEPS_BACK)

    def step_issued(self, step: int, began: int) -> None:
        """Note when the host issued a step: from `began`, in nanoseconds since the epoch, until now."""
        self.issued.append((step, began, time.time_ns()))

    def before_sampled_step(self, step: int) -> StepOperations | None:
        # DDP rebuilds its buckets after the first step
        if step - STEPS_BACK < 2:
            return None
        told, begin, end = self.issued[0]
        assert told == step - STEPS_BACK
        patience = time.monotonic() + PATIENCE_S
        while True:
            entries = dump()
            own = [entry for entry in entries if begin <= entry["time_created_ns"] < end]
            timed = all(entry.get("duration_ms") is not None for entry in own if entry["profiling_name"] in NAMES)
            if timed or time.monotonic() > patience:
                break
            time.sleep(PATIENCE_S / 10)
        # a ring that has wrapped round has lost the oldest entries of the step
        whole = bool(entries) and entries[0]["time_created_ns"] < begin and gapless(own)
        operations = [operation for entry in own if (operation := self._read(entry))]
        return StepOperations(told, operations, partial=not (timed and whole))

    def after_sampled_step(self, step: int) -> StepOperations | None:
        return None

    def _read(self, entry: dict[str, Any]) -> Operation | None:
        op = NAMES.get(entry["profiling_name"])
        if op is None:
            return None
        larger = "output" if op == "all_gather" else "input"
        size = sum(
            prod(shape) * WIDTHS.get(kind, 0)
            for shape, kind in zip(entry[f"{larger}_sizes"], entry[f"{larger}_dtypes"], strict=False)
        )
        milliseconds = entry.get("duration_ms")
        return Operation(
            op, self.group, self.group_size, size, None, None if milliseconds is None else milliseconds / 1e3
        )


def gapless(entries: list[dict[str, Any]]) -> bool:
    """Whether the recorder kept every entry between the first and the last of these."""
    return not entries or entries[-1]["record_id"] - entries[0]["record_id"] == len(entries) - 1


def dump() -> list[dict[str, Any]]:
    """The flight recorder's entries, oldest first, without stacks."""
    raw = torch._C._distributed_c10d._dump_nccl_trace(  # type: ignore[attr-defined]  # in CUDA builds only
        includeCollectives=True, includeStackTraces=False, onlyActive=False
    )
    # written by this process's own PyTorch a moment ago: nothing foreign is unpickled
    entries: list[dict[str, Any]] = pickle.loads(raw).get("entries", [])
    return sorted(entries, key=lambda entry: int(entry["record_id"]))
