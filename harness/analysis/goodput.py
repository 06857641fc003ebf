"""The goodput ledger: a point's wall-clock, over its attempts, tiled into productive time and named badput.

Plain Python, so that a mirror beside a running point can use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.read import Record
from harness.analysis.steps import Attempts, kept

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


@dataclass(frozen=True)
class Ledger:
    """Seconds of `wall_s` by bucket. `queue_s` lies before the wall-clock; rates are null while it is zero."""

    wall_s: float
    queue_s: float | None
    buckets: dict[str, float]
    kept_tokens: int
    goodput_tokens_per_s: float | None
    goodput_fraction: float | None


def ledger(launches: Sequence[Record], events: Attempts, now: float | None = None) -> Ledger:
    """Tile the time from the first attempt's launch to the last process end.

    `launches` are the attempts' launch records, `events` their records by attempt. An attempt that has not ended
    counts up to `now` (seconds since the epoch), or up to its last record where `now` is not given.
    """
    launches = sorted(launches, key=lambda launch: int(launch["attempt"]))
    buckets = dict.fromkeys(BUCKETS, 0.0)
    steps = kept(events)
    latest = {record["step"]: record["attempt"] for record in steps}
    wall = 0.0
    ended: float | None = None
    for launch in launches:
        records = events.get(launch["attempt"], [])
        if ended is not None:
            buckets["restart_gap"] += max(0.0, launch["start"] - ended)
        ended = _end(launch, records, now)
        _attempt(buckets, launch, records, ended, latest)
    if launches and ended is not None:
        wall = max(0.0, ended - launches[0]["start"])
    buckets["other"] = max(0.0, wall - sum(buckets.values()))
    tokens = sum(record["tokens"] for record in steps)
    return Ledger(
        wall_s=wall,
        queue_s=launches[0].get("queue_s") if launches else None,
        buckets=buckets,
        kept_tokens=tokens,
        goodput_tokens_per_s=tokens / wall if wall else None,
        goodput_fraction=buckets["step"] / wall if wall else None,
    )


def goodput_efficiency(goodput: float | None, gpus: int, peak_tokens_per_s: float | None) -> float | None:
    """Goodput ÷ (GPUs · peak tokens/s of one GPU)."""
    return None if goodput is None or not peak_tokens_per_s else goodput / (gpus * peak_tokens_per_s)


def _end(launch: Record, records: Sequence[Record], now: float | None) -> float:
    if launch["end"] is not None:
        return float(launch["end"])
    last = max((record["time"] for record in records), default=launch["start"])
    return float(max(launch["start"], last if now is None else now))


def _seconds(record: Record) -> float:
    """How long what a record stamps took; a benchmark's `duration_s` is that of one operation."""
    return float(record["whole_s" if record["kind"] == "benchmark" else "duration_s"])


def _attempt(
    buckets: dict[str, float], launch: Record, records: Sequence[Record], end: float, latest: dict[int, int]
) -> None:
    """Add one attempt's stamped buckets."""
    stamped = [record for record in records if record["kind"] in ("phase", "step", "benchmark")]
    begun = min((record["start"] for record in stamped), default=end)
    buckets["process_start"] += max(0.0, begun - launch["start"])
    for record in stamped:
        duration = _seconds(record)
        if record["kind"] == "phase":
            buckets[record["name"]] += duration
            continue
        if record["kind"] == "benchmark":
            buckets["step"] += record["timed_s"]
            buckets["compile_and_first_step"] += max(0.0, duration - record["timed_s"])
            continue
        if record["role"] == "first":
            buckets["compile_and_first_step"] += duration
        elif latest[record["step"]] != launch["attempt"]:
            buckets["step_lost"] += duration
        else:
            stall = min(record["data_s"], duration)
            buckets["data_stall"] += stall
            buckets["step"] += duration - stall
    finished = next((record["time"] for record in records if record["kind"] == "end"), None)
    if finished is not None:
        buckets["shutdown"] += max(0.0, end - finished)
    elif launch["end"] is not None and stamped:
        # Processes that ended in the middle of training lost the step they were in, a hang included.
        last = max(record["start"] + _seconds(record) for record in stamped)
        trained = any(record["kind"] != "phase" for record in stamped)
        buckets["step_lost" if trained else "compile_and_first_step"] += max(0.0, end - last)
