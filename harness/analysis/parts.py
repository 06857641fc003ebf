"""What a step was made of: of each sampled step, the account of the rank in the middle."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from harness.analysis.read import Record
from harness.analysis.steps import Attempts, kept

PARTS = ("transfer", "wait", "bubble", "data", "compute", "other")
NO_EXCHANGE = dict.fromkeys(("transfer", "wait", "bubble"), 0.0)

Step = tuple[int, int]
"""Attempt and number."""


@dataclass(frozen=True)
class StepParts:
    """Seconds of a step by part, null where not known, and how long the sampled steps were that told of them."""

    seconds: dict[str, float | None]
    sampled_step_s: float | None


class StepAccounts:
    """What all ranks wrote of their sampled steps, five numbers a rank and step: at scale that is all that fits."""

    def __init__(self) -> None:
        self.told: dict[Step, array[float]] = defaultdict(lambda: array("d"))
        self.partial: set[Step] = set()

    def watch(self, samples: Iterable[Record]) -> Iterator[Record]:
        """The same `sample` records, noted as they pass."""
        for record in samples:
            step = record["attempt"], record["step"]
            if record["partial"] or record["compute_s"] is None:
                self.partial.add(step)
            if record["compute_s"] is not None:
                # of a rank whose computation is known, what is null did not happen: one rank exchanges nothing
                wait, transfer, bubble, overlapped = (
                    record[name] or 0.0 for name in ("exposed_wait_s", "exposed_transfer_s", "bubble_s", "overlapped_s")
                )
                self.told[step].extend((wait, transfer, bubble, record["compute_s"] + overlapped, record["idle_s"]))
            yield record

    def middle(self) -> dict[Step, tuple[float, ...]]:
        """Of each step wait, transfer, bubble, compute and idle of one rank, which sum to its step.

        It is the rank in the middle by how long it waited, of two the one that waited longer: a rank that is late
        alone does not wait, and the others tell what it costs. Partial steps count where there are no others.
        """
        used = self.told.keys() - self.partial or self.told.keys()
        found = {}
        for step in sorted(used):
            ranks = np.frombuffer(self.told[step]).reshape(-1, 5)
            found[step] = tuple(ranks[np.argsort(ranks[:, 0], kind="stable")[len(ranks) // 2]].tolist())
        return found


def step_parts(accounts: StepAccounts, events: Attempts, ranks: int, data_s: float | None) -> StepParts:
    """Medians over the sampled steps, but for data: `data_s` is the mean over the measured steps on rank 0.

    Stalls are rare and long, so that a few sampled steps miss them. What of rank 0's waiting for data had no room in
    the middle rank's idle time was rank 0's alone: the others waited for it, and that is told already. `other` is idle
    time without data.
    """
    middle = accounts.middle()
    if not middle:
        return StepParts(dict.fromkeys(PARTS) | {"data": data_s} | (NO_EXCHANGE if ranks == 1 else {}), None)
    waited = _data_waits(events)
    own = np.array([waited.get(step, 0.0) for step in middle])
    wait, transfer, bubble, compute, idle = np.array(list(middle.values())).T
    together = np.minimum(own, idle)
    share = float(together.sum() / own.sum()) if own.sum() else 1.0
    seconds = {
        "transfer": transfer,
        "wait": wait,
        "bubble": bubble,
        "compute": compute,
        "other": idle - together,
    }
    found: dict[str, float | None] = {name: float(np.median(values)) for name, values in seconds.items()}
    found["data"] = None if data_s is None else data_s * share
    return StepParts(found, float(np.median(wait + transfer + bubble + compute + idle)))


def _data_waits(events: Attempts) -> Mapping[Step, float]:
    return {(record["attempt"], record["step"]): record["data_s"] for record in kept(events)}
