"""The goodput ledger: a point's wall-clock, over its attempts, tiled into productive time and named badput.

Plain Python, so that a mirror beside a running point can use it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from harness.analysis.read import Record
from harness.analysis.steps import Attempts, bounds, kept, latest, unrecorded
from harness.analysis.tiling import Span, tile

BUCKETS = (
    "process_start",
    "rendezvous",
    "model_build",
    "restore",
    "compile_and_first_step",
    "data_stall",
    "step",
    "step_lost",
    "checkpoint_stall",
    "profiling",
    "restart_gap",
    "shutdown",
    "other",
)

ENDS = ("end", "preempted")
"""The last word of an attempt that came to an end by itself."""


@dataclass(frozen=True)
class Ledger:
    """Seconds of `wall_s` by bucket, which sum to it.

    `queue_s` lies before the wall-clock; rates are null while it is zero. `lost_steps` were finished and not kept, one
    for each attempt that finished it. `overlap_s` is what stamps claim twice.
    """

    wall_s: float
    queue_s: float | None
    buckets: dict[str, float]
    attempts: int
    kept_steps: int
    lost_steps: int
    kept_tokens: int
    goodput_tokens_per_s: float | None
    goodput_fraction: float | None
    overlap_s: float


def ledger(launches: Sequence[Record], events: Attempts) -> Ledger:
    """Tile the time from the first attempt's launch to the last process end.

    `launches` are the attempts' launch records, `events` their records by attempt, `progress` among them. An attempt
    without an end counts up to its last sign of life; where another one follows, it was killed with its launcher.
    """
    launches = sorted(launches, key=lambda launch: int(launch["attempt"]))
    buckets = dict.fromkeys(BUCKETS, 0.0)
    bound = bounds(events)
    steps = kept(events)
    missing, lost, wall, overlap = 0, 0, 0.0, 0.0
    ended: float | None = None
    for launch, following in zip_longest(launches, launches[1:]):
        records = events.get(launch["attempt"], [])
        if ended is not None:
            buckets["restart_gap"] += max(0.0, launch["start"] - ended)
        ended = _end(launch, records, following)
        attempt = _Attempt(launch, records, bound.get(launch["attempt"], math.inf), following is None)
        tiles = tile(launch["start"], ended, list(attempt.ground()), attempt.spans())
        for name, seconds in tiles.seconds.items():
            buckets[name] += seconds
        stalled = min(attempt.data_s(), tiles.seconds.get("step", 0.0))
        buckets["step"] -= stalled
        buckets["data_stall"] += stalled
        overlap += tiles.overlap_s
        missing += attempt.missing_kept
        lost += attempt.lost
    if ended is not None:
        wall = max(0.0, ended - launches[0]["start"])
    tokens = sum(record["tokens"] for record in steps) + missing * _tokens_per_step(events)
    return Ledger(
        wall_s=wall,
        queue_s=launches[0].get("queue_s") if launches else None,
        buckets=buckets,
        attempts=len(launches),
        kept_steps=len(steps) + missing,
        lost_steps=lost,
        kept_tokens=tokens,
        goodput_tokens_per_s=tokens / wall if wall else None,
        goodput_fraction=buckets["step"] / wall if wall else None,
        overlap_s=overlap,
    )


def goodput_efficiency(goodput: float | None, gpus: int, peak_tokens_per_s: float | None) -> float | None:
    """Goodput ÷ (GPUs · peak tokens/s of one GPU)."""
    return None if goodput is None or not peak_tokens_per_s else goodput / (gpus * peak_tokens_per_s)


def doubts(tiled: Ledger) -> list[str]:
    """What the ledger cannot account for, beyond 1 % of the wall-clock or 1 s, a sentence each."""
    tolerance = max(1.0, 0.01 * tiled.wall_s)
    sentences = []
    if tiled.overlap_s > tolerance:
        sentences.append(f"the ledger's stamps overlap by {tiled.overlap_s:.1f} s")
    if tiled.buckets["other"] > tolerance:
        sentences.append(f"{tiled.buckets['other']:.1f} s of the wall-clock carry no stamp")
    return sentences


class _Attempt:
    """One attempt's stamps. `bound` is the first step that a later attempt has run, `last` whether none follows."""

    def __init__(self, launch: Record, records: Sequence[Record], bound: float, last: bool) -> None:
        self.launch, self.bound = launch, bound
        self.phases = [record for record in records if record["kind"] == "phase"]
        self.steps = [record for record in records if record["kind"] == "step"]
        self.benchmarks = [record for record in records if record["kind"] == "benchmark"]
        self.progress = next((record for record in records if record["kind"] == "progress"), None)
        self.finished = next((record["time"] for record in records if record["kind"] in ENDS), None)
        missing = unrecorded(records)
        # what an attempt could not record is kept by one that goes on from it; the last one may still be running
        over = launch["end"] is not None or not last
        gone = over and math.isinf(bound) and self.finished is None
        self.missing = len(missing)
        self.missing_kept = 0 if gone else sum(step < bound for step in missing)
        kept_steps = sum(record["step"] < bound for record in self.steps)
        self.lost = len(self.steps) - kept_steps + self.missing - self.missing_kept

    def spans(self) -> Iterator[Span]:
        """What has stamps of its own; steps whole."""
        for record in self.phases:
            yield Span(record["start"], record["duration_s"], record["name"])
        for record in self.steps:
            yield Span(record["start"], record["duration_s"], self._bucket(record))
        for record in self.benchmarks:
            # buffers are filled, and every element compared, before what counts
            around = record["whole_s"] - record["timed_s"]
            yield Span(record["start"], around, "compile_and_first_step")
            yield Span(record["start"] + around, record["timed_s"], "step")

    def data_s(self) -> float:
        """Seconds in `step` that waited for data."""
        return sum(min(r["data_s"], r["duration_s"]) for r in self.steps if self._bucket(r) == "step")

    def _bucket(self, step: Record) -> str:
        if step["role"] == "first":
            return "compile_and_first_step"
        return "step" if step["step"] < self.bound else "step_lost"

    def ground(self) -> Iterator[tuple[float, str]]:
        """What lies between those, each from when on."""
        yield self.launch["start"], "process_start"
        begun = min((record["start"] for record in [*self.phases, *self.steps]), default=None)
        if begun is not None:
            yield begun, "other"
        if self.finished is not None:
            yield self.finished, "shutdown"
        elif self.progress is not None:
            yield from self._cut_off(self.progress)
        elif begun is not None and self.launch["end"] is not None:
            # Processes that ended in the middle of training lost the step they were in, a hang included.
            stamped = [*self.phases, *self.steps]
            recorded = max(record["start"] + record["duration_s"] for record in stamped)
            yield recorded, "step_lost" if self.steps else "compile_and_first_step"

    def _cut_off(self, progress: Record) -> Iterator[tuple[float, str]]:
        """The end of an attempt that did not say that it ended: steps without a record, and where it was then."""
        since, over = progress["time"], self.launch["end"] is not None
        if self.missing and not self.steps:
            first_done = progress["first_time"]
            built = (record["start"] + record["duration_s"] for record in self.phases)
            yield max((time for time in built if time <= first_done), default=first_done), "compile_and_first_step"
            recorded = first_done
        else:
            recorded = max((record["start"] + record["duration_s"] for record in self.steps), default=since)
        # steps go on from each other, so those that are kept come first
        share = self.missing_kept / self.missing if self.missing else 0.0
        yield recorded, "step"
        # as long as processes may still be running, nobody knows that a step was cut off
        yield recorded + share * (since - recorded), "step_lost" if self.missing or over else "other"
        if progress["phase"] != "step":
            yield since, progress["phase"]
        else:
            yield since, "step_lost" if over else "other"


def _end(launch: Record, records: Sequence[Record], following: Record | None) -> float:
    """When an attempt's processes ended, as far as anybody knows: never after the next attempt began."""
    end = launch["end"]
    if end is None:
        end = max((record["time"] for record in records), default=launch["start"])
    return float(max(launch["start"], end if following is None else min(end, following["start"])))


def _tokens_per_step(events: Attempts) -> int:
    """Tokens of a step over all ranks; 0 where no attempt got as far as to say, and where nothing is trained."""
    start = latest(events, "start")
    return int(start["tokens_per_step"] or 0) if start else 0
