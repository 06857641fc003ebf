"""Faults on purpose: an observer of the training loop around the others, on the rank that is to fail.

What happens is real: the kernel kills, the allocator fails, writing fails. Nothing else of the harness knows of it.
"""

import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.config import Config
from harness.parallel.strategy import Strategy
from harness.plan.faults import DRAWN, drawn, fault_rank, fault_step
from harness.training.loop import Observer

FILE_BYTES = 4096
"""With a full disk the most that a file can hold: what is in its first block still gets through, as error files do."""

IMPOSSIBLE_BYTES = 1 << 60
"""More than a process can address."""


def with_faults(
    config: Config, observer: Observer, trained: Strategy, rank: int, run_dir: Path, attempt: int
) -> Observer:
    """The observer, with the point's fault around it on the rank that is to have one."""
    if config.faults.kind not in DRAWN or rank != fault_rank(config):
        return observer
    return Faulty(config, observer, trained, rank, run_dir, attempt)


class Faulty:
    """An observer that does something bad where a step begins, before any of its collectives.

    With a step it happens once in a point, in the attempt that first comes there; with a rate wherever it is drawn.
    `slow` goes on to the end once it has begun. attempts/<k>/faults.jsonl has a line for each.
    """

    def __init__(
        self, config: Config, observer: Observer, trained: Strategy, rank: int, run_dir: Path, attempt: int
    ) -> None:
        self.config, self.observer, self.trained, self.rank, self.attempt = config, observer, trained, rank, attempt
        self.path = run_dir / "attempts" / str(attempt) / "faults.jsonl"
        self.over = config.faults.rate is None and any(run_dir.glob("attempts/*/faults.jsonl"))
        self.undo: Callable[[], None] | None = None

    def before_first_step(self) -> None:
        self.observer.before_first_step()

    def data_ready(self, step: int) -> None:
        self.observer.data_ready(step)
        if self.due(step):
            self.tell(step)
            self.happen()

    def step_done(self, step: int, lr: float, loss: Tensor, grad_norm: Tensor) -> None:
        if self.undo is not None:
            self.undo()
            self.undo = None
        self.observer.step_done(step, lr, loss, grad_norm)

    def after_last_step(self) -> None:
        self.observer.after_last_step()

    def due(self, step: int) -> bool:
        if self.config.faults.rate is not None:
            return drawn(self.config, self.attempt, step)
        if self.config.faults.kind == "slow":
            return step >= fault_step(self.config)
        return step == fault_step(self.config) and not self.over

    def tell(self, step: int) -> None:
        told = {
            "schema": 1,
            "kind": "fault",
            "time": time.time(),
            "attempt": self.attempt,
            "fault": self.config.faults.kind,
            "rank": self.rank,
            "step": step,
        }
        with open(self.path, "ab", buffering=0) as file:
            file.write((json.dumps(told) + "\n").encode())

    def happen(self) -> None:
        kind = self.config.faults.kind
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "hang":
            hang()
        elif kind == "slow":
            time.sleep(self.config.faults.seconds)
        elif kind == "nan":
            self.undo = poison(self.trained.parts[-1])
        elif kind == "oom":
            fill_memory(self.trained.device)
        else:
            fill_disk()


def hang() -> None:
    """Never come back, as from a lock that nobody frees."""
    while True:
        time.sleep(3600)


def poison(part: nn.Module) -> Callable[[], None]:
    """Have what a part of the model gives be no numbers, as after an overflow; what ends that."""

    def spoil(module: nn.Module, given: Any, found: Tensor) -> Tensor:
        return found * float("nan")

    return part.register_forward_hook(spoil).remove


def fill_memory(device: torch.device) -> None:
    """Take memory until the allocator fails; of a host, whose other processes would suffer, more than there can be."""
    if device.type == "cpu":
        torch.empty(IMPOSSIBLE_BYTES, dtype=torch.uint8)
    piece = torch.cuda.get_device_properties(device).total_memory // 64
    held = []
    while True:
        held.append(torch.empty(piece, dtype=torch.uint8, device=device))


def fill_disk() -> None:
    """From now on let none of this process's files grow beyond FILE_BYTES.

    The kernel refuses such a write as it does on a full disk, with "File too large" for "No space left on device":
    filling a real one takes the right to mount it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, most))
