"""Records as W&B keys: the rows of a run's history, and its summary. Values that are null are left out."""

from collections.abc import Iterator, Mapping
from typing import Any

from harness.analysis.collectives import collectives
from harness.analysis.fingerprint import recorded
from harness.analysis.goodput import ledger
from harness.analysis.read import Events, Point, Record
from harness.analysis.summary import summarise

AXIS = "train/step"
# As globs: a metric defined by its exact name as well would lose the axis that its glob gives it.
KEYS = ("perf/*", "comm/*", "goodput/*", "memory/*", "train/*")
# Of a point that times collectives alone.
ALONE_AXIS, ALONE_KEYS = "alone/bytes", ("alone/*",)
# Goodput is taken again when the records have grown by this share, so that all ledgers of a point together visit
# each record at most 51 times, however long it runs.
GROWTH = 0.02


class History:
    """Turns records into rows, in order: the same rows live as read again afterwards.

    `launches` are the launch records by attempt, as they stand; whoever holds this keeps them fresh.
    """

    def __init__(self) -> None:
        self.launches: Mapping[int, Record] = {}
        self._events: Events = {}
        self._seen = 0
        self._due = 0.0

    def rows(self, attempt: int, record: Record) -> Iterator[dict[str, Any]]:
        """The row of a record of an attempt, where it has one."""
        self._events.setdefault(attempt, []).append(record)
        self._seen += 1
        if record["kind"] == "step":
            yield present(_step(record) | self._goodput(attempt))
        elif record["kind"] == "collectives":
            yield present(_collectives(record))
        elif record["kind"] == "exposure":
            yield present(_exposure(record))
        elif record["kind"] == "benchmark":
            yield _benchmark(record)

    def _goodput(self, attempt: int) -> dict[str, Any]:
        """Goodput up to the latest record of an attempt, as if the attempt were still running."""
        if self._seen < self._due:
            return {}
        self._due = self._seen * (1 + GROWTH)
        launches = [launch for number, launch in self.launches.items() if number < attempt]
        if attempt in self.launches:
            launches.append(self.launches[attempt] | {"end": None})
        so_far = ledger(launches, self._events)
        return {"goodput/fraction": so_far.goodput_fraction, "goodput/tokens_per_s": so_far.goodput_tokens_per_s}


def _step(record: Record) -> dict[str, Any]:
    """A step on rank 0: its seconds, rates per second over all ranks, bytes."""
    return {
        AXIS: record["step"],
        "perf/step_s": record["duration_s"],
        "perf/tokens_per_s": record["tokens"] / record["duration_s"] if record["duration_s"] else None,
        "memory/peak_bytes": record["peak_memory_bytes"],
        "train/loss": record["loss"],
        "train/grad_norm": record["grad_norm"],
        "train/lr": record["lr"],
    }


def _collectives(record: Record) -> dict[str, Any]:
    """A sampled step's seconds by operation, and all-reduce's bus bandwidth in bytes per second."""
    seconds = {f"comm/{name}_s": value for name, value in record["seconds"].items()}
    busbw = collectives({0: [record]}).all_reduce_busbw
    # older records lack it
    last = record.get("last") or {}
    return {
        AXIS: record["step"],
        **seconds,
        **_split(record),
        "comm/all_reduce_busbw": busbw,
        "comm/last_rank": last.get("rank"),
        "comm/last_share": last.get("share"),
    }


def _split(record: Record) -> dict[str, float]:
    """Seconds of transfer and of waiting by operation, summed over the groups where they are known."""
    found: dict[str, float] = {}
    for operations in record.get("groups", {}).values():
        for name, told in operations.items():
            for part in ("transfer_s", "wait_s"):
                if told.get(part) is not None:
                    found[f"comm/{name}_{part}"] = found.get(f"comm/{name}_{part}", 0.0) + told[part]
    return found


def _exposure(record: Record) -> dict[str, Any]:
    """Where a sampled step's seconds went: in all that synchronises, small operations included, and in its parts."""
    return {
        AXIS: record["step"],
        "comm/transfer_s": record["transfer_s"],
        "comm/wait_s": record["wait_s"],
        "comm/overlapped_s": record["overlapped_s"],
        "comm/exposed_transfer_s": record["exposed_transfer_s"],
        "comm/exposed_wait_s": record["exposed_wait_s"],
        "comm/bubble_s": record["bubble_s"],
        "perf/compute_s": record["compute_s"],
        "perf/idle_s": record["idle_s"],
    }


def _benchmark(record: Record) -> dict[str, Any]:
    """An operation of one size alone: its seconds, and its bus bandwidth in bytes per second."""
    name = f"alone/{record['op']}{'_graph' * record['graph']}"
    return {ALONE_AXIS: record["bytes"], f"{name}_s": record["duration_s"], f"{name}_busbw": record["busbw"]}


def summary(point: Point) -> dict[str, Any]:
    """The columns of points.csv that a point tells by itself, and what it recorded of its fingerprint, flat."""
    row = summarise(point)
    return present(recorded(point, row) | row)


def present(values: dict[str, Any]) -> dict[str, Any]:
    """The values that are there: a null is left out, never logged as zero."""
    return {key: value for key, value in values.items() if value is not None}
