"""Which part of the sampled steps was communication that no computation covered."""

from dataclasses import dataclass
from statistics import median

from harness.analysis.steps import Attempts, kept


@dataclass(frozen=True)
class Exposure:
    """Medians over the sampled steps, in seconds; null where no step's parts are known, or has no such part.

    `communication` is that of each step's transfer and waiting together.
    """

    communication: float | None
    transfer: float | None
    wait: float | None
    bubble: float | None


def exposure(events: Attempts) -> Exposure:
    """Over the steps that all gathered ranks could tell, or over the partial ones where there are no others."""
    told = [record for record in kept(events, "exposure") if record["exposed_transfer_s"] is not None]
    used = [record for record in told if not record["partial"]] or told
    if not used:
        return Exposure(None, None, None, None)
    bubbles = [record["bubble_s"] for record in used if record["bubble_s"] is not None]
    return Exposure(
        communication=median(record["exposed_transfer_s"] + record["exposed_wait_s"] for record in used),
        transfer=median(record["exposed_transfer_s"] for record in used),
        wait=median(record["exposed_wait_s"] for record in used),
        bubble=median(bubbles) if bubbles else None,
    )
