"""What a person may change about a point that ran out of memory."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.plan.point import Plan, what_would_help
from harness.study.diagnosis import read
from harness.study.outcome import Outcome
from harness.study.planning import Planned, target
from launch.devices import Machine

REQUESTED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMGT]iB)")
"""What PyTorch says of the allocation that failed, on a GPU and on a host."""

UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def advised(outcome: Outcome, planned: Planned, machine: Machine, attempt_dir: Path) -> Outcome:
    """The outcome; where a rank ran out of memory while training, with what would fit.

    The plan had taken the point to fit, so what it estimates of a change is scaled by what the rank turned out to need.
    """
    plan, config = planned.plan, planned.point.config
    if outcome.status != "oom" or not isinstance(plan, Plan):
        return outcome
    device, limit = target(config, machine)
    told = read(attempt_dir).get(-1 if outcome.rank is None else outcome.rank)
    needed = max(needs(told), limit or 0, 1)
    room = int(plan.memory.total * (limit or needed) / needed) - 1
    return replace(outcome, reason=f"{outcome.reason}; {what_would_help(config, device, room)}")


def needs(told: dict[str, Any] | None) -> int:
    """Bytes that a rank had held and asked for beside them, as far as it could say."""
    if told is None:
        return 0
    found = REQUESTED.search(told["error"] or "")
    return int(told["peak_memory_bytes"] + (float(found.group(1)) * UNITS[found.group(2)] if found else 0))
