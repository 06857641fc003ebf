"""How the sampled steps' communication was transfer and waiting, and which part of it no computation covered."""

from dataclasses import dataclass
from statistics import median

from harness.analysis.steps import Attempts, kept, median_of_known


@dataclass(frozen=True)
class Exposure:
    """Medians over the sampled steps, in seconds; null where no step's parts are known, or has no such part.

    transfer_s and wait_s are of all operations that synchronise, small ones included. `communication` is each step's
    exposed transfer and waiting together.
    """

    transfer_s: float | None
    wait_s: float | None
    communication: float | None
    transfer: float | None
    wait: float | None
    bubble: float | None


def exposure(events: Attempts) -> Exposure:
    """Over the steps that all gathered ranks could tell, or over the partial ones where there are no others."""
    told = [record for record in kept(events, "exposure") if record["exposed_transfer_s"] is not None]
    used = [record for record in told if not record["partial"]] or told
    if not used:
        return Exposure(None, None, None, None, None, None)
    return Exposure(
        transfer_s=median_of_known([record["transfer_s"] for record in used]),
        wait_s=median_of_known([record["wait_s"] for record in used]),
        communication=median(record["exposed_transfer_s"] + record["exposed_wait_s"] for record in used),
        transfer=median(record["exposed_transfer_s"] for record in used),
        wait=median(record["exposed_wait_s"] for record in used),
        bubble=median_of_known([record["bubble_s"] for record in used]),
    )
