"""What a step's collectives achieve against what the same ones attain alone: the curves of workload=collectives.

A curve fits a step's operation where both had the same backend, device, NCCL and NCCL environment, and as many ranks in
the same places: all ranks of as many on as many hosts, or a group inside the one host that there is.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from harness.analysis.environment import in_force
from harness.analysis.read import Events, Point, Record
from harness.analysis.steps import Attempts, kept
from harness.plan.busbw import factor

COMPARED = ("all_reduce", "all_gather", "reduce_scatter")
"""The operations that points.csv compares."""


@dataclass(frozen=True)
class Setting:
    """What decides how fast a collective can be, apart from the operation and its size."""

    backend: str
    device: str | None
    nccl: str
    nodes: int
    ranks: int


@dataclass(frozen=True)
class Bandwidth:
    """A point's curves: its `benchmark` records, of an operation and size that was timed again the last."""

    slug: str
    setting: Setting
    entries: list[Record]

    def seconds(self, op: str, size: int) -> float | None:
        """How long an operation takes alone, log-log between the two sizes around; None outside of those timed.

        By the faster way to launch it: a step's launches run ahead of the device, and cost it nothing.
        """
        fastest: dict[int, float] = {}
        for entry in self.entries:
            if entry["op"] == op:
                fastest[entry["bytes"]] = min(entry["duration_s"], fastest.get(entry["bytes"], math.inf))
        timed = sorted(fastest.items())
        if not timed or not timed[0][0] <= size <= timed[-1][0]:
            return None
        sizes, durations = np.log(np.asarray(timed, dtype=float)).T
        return float(np.exp(np.interp(np.log(size), sizes, durations)))


@dataclass(frozen=True)
class InStep:
    """The operations of one kind in a step: medians over sampled steps, and the seconds of one alone, where known."""

    op: str
    group: str
    group_size: int
    bytes: int
    count: float
    duration_s: float
    busbw: float
    alone_s: float | None = None


def setting(point: Point, start: Record) -> Setting:
    """A started point's."""
    asked, environment = point.config.nccl.env, point.environment
    files = [file.get("sha256") for file in environment.get("files", ()) if file.get("exists")]
    nccl = {
        "env": {**in_force(environment), **{name: str(value) for name, value in asked.items()}},
        "files": files,
        "version": start["versions"].get("nccl"),
    }
    described = json.dumps(nccl, sort_keys=True)
    return Setting(start["backend"], start["device_name"], described, start["nodes"], start["world_size"])


def entries(events: Events) -> list[Record]:
    """A point's `benchmark` records in order, one for each operation, size and way to launch it."""
    latest: dict[tuple[str, int, bool], Record] = {}
    for attempt in sorted(events):
        latest |= {(r["op"], r["bytes"], r["graph"]): r for r in events[attempt] if r["kind"] == "benchmark"}
    return list(latest.values())


def in_step(events: Attempts) -> list[InStep]:
    """The timed operations of the sampled steps that do not overlap others and are not small."""
    found: dict[tuple[str, str, int, int], list[Record]] = defaultdict(list)
    for record in kept(events, "collectives"):
        for operation in record["operations"]:
            if not operation["small"] and operation["busbw"] is not None and operation["duration_s"]:
                found[tuple(operation[key] for key in ("op", "group", "group_size", "bytes"))].append(operation)
    return [
        InStep(*kind, *(median(operation[key] for operation in same) for key in ("count", "duration_s", "busbw")))
        for kind, same in found.items()
    ]


def placed(operations: Sequence[InStep], at: Setting, curves: Sequence[Bandwidth]) -> list[InStep]:
    """The operations of a point with the time that each takes alone: the median of the curves that fit."""
    return [
        replace(each, alone_s=_alone(each, [c for c in curves if _fits(each, at, c.setting)])) for each in operations
    ]


def columns(operations: Sequence[InStep]) -> dict[str, float]:
    """Bus bandwidth that a point's operations attain alone, and the share of it that they achieve in the step."""
    made = {}
    for op in COMPARED:
        known = [(each, each.alone_s) for each in operations if each.op == op and each.alone_s is not None]
        alone = sum(each.count * seconds for each, seconds in known)
        if alone:
            moved = sum(each.count * each.bytes * factor(op, each.group_size) for each, _ in known)
            made[f"{op}_attainable"] = moved / alone
            made[f"{op}_of_attainable"] = alone / sum(each.count * each.duration_s for each, _ in known)
    return made


def _fits(operation: InStep, at: Setting, curve: Setting) -> bool:
    if (at.backend, at.device, at.nccl) != (curve.backend, curve.device, curve.nccl):
        return False
    # on which of several hosts a smaller group lies, no record tells
    same_places = curve.nodes == at.nodes and (at.nodes == 1 or operation.group_size == at.ranks)
    return same_places and curve.ranks == operation.group_size


def _alone(operation: InStep, curves: Iterable[Bandwidth]) -> float | None:
    told = [curve.seconds(operation.op, operation.bytes) for curve in curves]
    known = [seconds for seconds in told if seconds is not None]
    return median(known) if known else None
