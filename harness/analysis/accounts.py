"""What a study's table needs of each of its points, one after the other and, where that takes long, on all cores."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from harness.analysis.attainable import Bandwidth, InStep, Setting, entries, in_step, setting
from harness.analysis.read import Point, read_point
from harness.analysis.steps import first
from harness.analysis.summary import Row, summarise
from harness.config import Config
from harness.plan.workload import times_collectives

ALONE_S = 1.0
"""Seconds of reading after which other processes are worth their start."""

MOST = 8
"""Processes, each of which holds one point's records."""


@dataclass(frozen=True)
class Account:
    """A point in numbers: its row as far as it tells it itself, and what its collectives did, alone or in its steps.

    `setting` is null where it has not started.
    """

    row: Row
    config: Config
    setting: Setting | None
    bandwidth: Bandwidth | None
    in_step: list[InStep]


def accounts(folders: Sequence[Path]) -> Iterator[Account | str]:
    """Of each run directory in order, or a sentence on why it is left out. No more than a few points lie in memory."""
    begun = time.monotonic()
    for number, folder in enumerate(folders):
        if time.monotonic() - begun > ALONE_S:
            yield from _on_all_cores(folders[number:])
            return
        yield account(folder)


def account(folder: Path) -> Account | str:
    """A run directory's account, or a sentence on why there is none."""
    try:
        point = read_point(folder)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"point {folder.name} is left out: {error}"
    try:
        return _account(point)
    # Damage takes more shapes than can be foreseen, and one damaged point must not cost the others their report.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return f"point {folder.name} is left out: its records make no sense ({error!r})"


def _account(point: Point) -> Account:
    row, start = summarise(point), first(point.events, "start")
    if start is None:
        return Account(row, point.config, None, None, [])
    at = setting(point, start)
    if times_collectives(point.config):
        return Account(row, point.config, at, Bandwidth(point.slug, at, entries(point.events)), [])
    return Account(row, point.config, at, None, in_step(point.events))


def _on_all_cores(folders: Sequence[Path]) -> Iterator[Account | str]:
    done = 0
    pool = ProcessPoolExecutor(min(MOST, len(os.sched_getaffinity(0)), len(folders)), get_context("spawn"))
    # Ctrl-C is this process's alone to tell: the others inherit that they do not hear it.
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        found = pool.map(account, folders, chunksize=2)
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        for done, each in enumerate(found, 1):
            yield each
    except BrokenProcessPool:  # somebody ended one of them, or none could be started
        yield from map(account, folders[done:])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        pool.shutdown(cancel_futures=True)
