"""What the sampled steps spent in collectives."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.read import Record
from harness.analysis.steps import Attempts, kept, median_of_known
from harness.plan.busbw import FACTORS

OPERATIONS = tuple(FACTORS)


@dataclass(frozen=True)
class Collectives:
    """Medians over `windows` sampled steps: `seconds` of a step by operation, and all-reduce's bus bandwidth.

    `partial` says that only windows with missing entries were there. An operation that did not occur is null.
    """

    windows: int
    partial: bool
    seconds: dict[str, float | None]
    all_reduce_busbw: float | None


def collectives(events: Attempts) -> Collectives:
    """Medians over the whole windows, or over the partial ones where none is whole."""
    sampled = kept(events, "collectives")
    whole = [record for record in sampled if not record["partial"]]
    used = whole or sampled
    return Collectives(
        windows=len(used),
        partial=bool(used) and not whole,
        seconds={name: median_of_known([record["seconds"].get(name) for record in used]) for name in OPERATIONS},
        all_reduce_busbw=_busbw(used, "all_reduce"),
    )


def _busbw(windows: Sequence[Record], name: str) -> float | None:
    """Median bus bandwidth in bytes/s, each operation weighing its bytes; small operations are left out."""
    weighted = sorted(
        (operation["busbw"], operation["bytes"] * operation["count"])
        for record in windows
        for operation in record["operations"]
        if operation["op"] == name and not operation["small"] and operation["busbw"] is not None
    )
    half = sum(weight for _, weight in weighted) / 2
    passed = 0.0
    for busbw, weight in weighted:
        passed += weight
        if passed >= half:
            return float(busbw)
    return None
