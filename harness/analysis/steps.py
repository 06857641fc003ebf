"""Which steps of a point count, over its attempts.

A later attempt goes on from what an earlier one left, or from the start: the earlier one's steps from the later one's
first step on are lost, also those that are yet to be run again.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median

from harness.analysis.read import Record
from harness.config import Config
from harness.plan.profiling import profiled_steps
from harness.plan.window import role
from harness.plan.workload import times_collectives

Attempts = Mapping[int, Sequence[Record]]


def begun(records: Sequence[Record]) -> float:
    """The first step that an attempt has finished, by its records or its progress; infinite where there is none."""
    told = (record["step"] if record["kind"] == "step" else record["first"] for record in records if _counts(record))
    return min((step for step in told if step is not None), default=math.inf)


def bounds(events: Attempts) -> dict[int, float]:
    """By attempt, the first step that a later attempt has run: from there on nothing of it is kept."""
    found: dict[int, float] = {}
    bound = math.inf
    attempts = sorted(events, reverse=True)
    for attempt in attempts:
        found[attempt] = bound
        if attempt != attempts[-1]:  # nothing lies before the first
            bound = min(bound, begun(events[attempt]))
    return found


def kept(events: Attempts, kind: str = "step") -> list[Record]:
    """The records of kept steps, one a step, in order."""
    bound = bounds(events)
    steps = {
        record["step"]: record
        for attempt in sorted(events)
        for record in events[attempt]
        if record["kind"] == kind and record["step"] < bound[attempt]
    }
    return [steps[step] for step in sorted(steps)]


def median_of_known(values: Sequence[float | None]) -> float | None:
    """The median over those steps that have a value, or None where none has."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def unrecorded(records: Sequence[Record]) -> list[int]:
    """Steps that an attempt has finished by its progress, and that it could not record any more."""
    progress = next((record for record in records if record["kind"] == "progress"), None)
    if progress is None or progress["first"] is None or progress["finished"] is None:
        return []
    recorded = {record["step"] for record in records if record["kind"] == "step"}
    return [step for step in range(progress["first"], progress["finished"] + 1) if step not in recorded]


def gaps(events: Attempts, config: Config, ok: bool) -> list[int]:
    """Measured steps that are kept and have no record, although the attempt went on behind them, or ended well.

    What a killed attempt could not record any more is none: it is the end of what is known. Of the last attempt of an
    `ok` point nothing is, nor what lies before the step that a later attempt went on from.
    """
    if times_collectives(config):
        return []
    found, bound, profiled = [], bounds(events), profiled_steps(config)
    earlier, reached = False, 0
    for attempt, records in sorted(events.items()):
        recorded = {record["step"] for record in records if record["kind"] == "step"}
        ended = {record["steps"] for record in records if record["kind"] == "end"} - {None}
        done = recorded | ended
        begun = {record["first"] for record in records if record["kind"] == "progress"} - {None} or recorded
        if ok and attempt == max(events):
            done |= ended or {config.steps}
            begun = begun or {reached + 1}
        if bound[attempt] < math.inf:
            done.add(int(bound[attempt]) - 1)
        reached = max({reached} | recorded)
        if not begun or not done:
            continue
        begin, sampled, earlier = min(begun) if earlier else 1, config.record.sample_every, True
        found += [
            step
            for step in range(begin, min(max(done), config.steps) + 1)
            if step not in recorded and step < bound[attempt]
            if role(step, config.warmup, sampled, profiled, begin) == "measured"
        ]
    return sorted(found)


def without_record(lost: Sequence[int]) -> str:
    """Why a point whose records were damaged has no figures of its window, given its `gaps`."""
    many = f"{len(lost)} measured steps from {lost[0]} to {lost[-1]} have"
    which = f"measured step {lost[0]} has" if len(lost) == 1 else many
    return f"{which} no record that can be read, so that tokens/s and all that follows are not known"


def unended(events: Attempts, config: Config, ok: bool) -> bool:
    """Whether a point of collectives alone was `ok` and its records no longer reach its end.

    Of training `gaps` tells more: which steps.
    """
    return ok and times_collectives(config) and latest(events, "end") is None


def latest(events: Attempts, kind: str) -> Record | None:
    """The latest attempt's first record of a kind, such as its `start`."""
    for attempt in sorted(events, reverse=True):
        for record in events[attempt]:
            if record["kind"] == kind:
                return record
    return None


def _counts(record: Record) -> bool:
    return record["kind"] in ("step", "progress")
