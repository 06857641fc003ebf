"""What a study's table needs of each of its points, told by one process or, where that takes long, by several."""

import gc
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from harness.analysis.attainable import Bandwidth, InStep, Setting, entries, in_step, setting
from harness.analysis.fingerprint import Fingerprint, recorded
from harness.analysis.read import Point, read_point
from harness.analysis.steps import latest
from harness.analysis.stragglers import Waiting
from harness.analysis.summary import Row, in_numbers
from harness.config import Config
from harness.plan.workload import times_collectives

LARGEST = 2**63 - 1
"""The largest count that a table's column holds."""
MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What damaged records raise: damage takes more shapes than can be foreseen, and must not cost other points theirs."""

ALONE_S = 1.0
"""Seconds of reading after which other processes are worth their start."""


@dataclass(frozen=True)
class Account:
    """A point in numbers: its row as far as it tells it itself, what its collectives did, alone or in its steps, and
    the waiting that its ranks cause.

    `recorded` is the part of its fingerprint that was recorded. `setting` is null where it has not started.
    """

    row: Row
    config: Config
    recorded: Fingerprint
    setting: Setting | None
    bandwidth: Bandwidth | None
    in_step: list[InStep]
    waiting: Waiting | None


def accounts(folders: Sequence[Path], processes: int = 1) -> Iterator[Account | str]:
    """Of each run directory in order, or a sentence on why it is left out.

    Each process holds the records of one point. More than one only where the program's main module may be imported
    again, as multiprocessing's do.
    """
    begun = time.monotonic()
    for number, folder in enumerate(folders):
        if processes > 1 and time.monotonic() - begun > ALONE_S:
            yield from _by_several(folders[number:], processes)
            return
        yield account(folder)


def cores() -> int:
    """How many processes can run at once here, at most eight: more would only wait for the disk."""
    return min(8, len(os.sched_getaffinity(0)))


def account(folder: Path) -> Account | str:
    """A run directory's account, or a sentence on why there is none."""
    try:
        point = read_point(folder)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"point {folder.name} is left out: {error.strerror}"
    for told in (point, as_planned(point)):
        with suppress(*MALFORMED):
            return _account(told)
    return f"point {folder.name} is left out: config.yaml has values that make no sense"


def as_planned(point: Point) -> Point:
    """What is left of a point whose records make no sense: its configuration, and how it ended."""
    said = "its records have values that make no sense, so that nothing is taken from them"
    return replace(point, provenance={}, environment={}, launches=[], events={}, warnings=[*point.warnings, said])


def _account(point: Point) -> Account:
    (row, waiting), start = in_numbers(point), latest(point.events, "start")
    if any(isinstance(value, int) and value > LARGEST for value in row.values()):
        raise OverflowError
    config, told = point.config, recorded(point, row)
    if start is None:
        return Account(row, config, told, None, None, [], waiting)
    at = setting(point, start)
    if times_collectives(config):
        return Account(row, config, told, at, Bandwidth(point.slug, at, entries(point.events)), [], waiting)
    return Account(row, config, told, at, None, in_step(point.events), waiting)


def _by_several(folders: Sequence[Path], processes: int) -> Iterator[Account | str]:
    done = 0
    # records hold no cycles, and to look for some takes a tenth of the time
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=gc.disable)
    # Ctrl-C is this process's alone to tell: the others inherit that they do not hear it.
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        found = pool.map(account, folders, chunksize=2)
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        for each in found:
            done += 1
            yield each
    except (BrokenProcessPool, OSError, ValueError):  # somebody ended one of them, or none could be started
        yield from map(account, folders[done:])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        pool.shutdown(cancel_futures=True)
