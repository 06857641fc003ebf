"""What a sampled step was on one rank, waiting apart, and what the gathered ranks say of it together."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from math import nan
from typing import Any

import torch
from torch import Tensor

from harness.recorder.operations import LENGTHS, PAIRS, Operation, StepOperations, middle, pad
from harness.recorder.timeline import ACROSS, PIPELINE, Communication, parts
from harness.recorder.waits import SYNCHRONISING, Share, Split, seconds, waited_for

OWN = sum(LENGTHS)
"""Length of the first part of a row, which is that of the operations."""

PARTS = ("compute_s", "overlapped_s", "exposed_transfer_s", "exposed_wait_s", "bubble_s", "idle_s")
"""Of a step, in the order of harness.recorder.timeline.Parts."""

COMMUNICATION = ("overlapped_s", "exposed_transfer_s", "exposed_wait_s")
"""Those of them in which a collective is under way."""

WAITS = (PAIRS, PAIRS, 4, 1 + len(PARTS))
"""Of the rest of a row: transfer and waiting by group and operation; of all that synchronise transfer, waiting, their
number and in how many this rank came last; seconds of the step and of its parts."""


@dataclass(frozen=True)
class Window:
    """The step that a profiler's window was around: its begin in nanoseconds since the epoch, and its seconds."""

    begin: int
    seconds: float


@dataclass(frozen=True)
class Sample:
    """One rank's account of a step, when the ranks of its groups have said how long they took.

    pipeline: whether there are stages, without which there is no bubble. window: None of an account without one.
    """

    rank: int
    told: StepOperations
    split: Split
    pipeline: bool
    window: Window | None

    @property
    def partial(self) -> bool:
        return self.told.partial or not self.split.agreed

    @cached_property
    def parts(self) -> list[float | None]:
        """Seconds of PARTS; all None where not every operation could be placed and split, those of communication where
        there is none, as on one rank."""
        timeline = self.told.timeline
        if self.window is None or timeline is None or not timeline.whole:
            return [None] * len(PARTS)
        pairs = list(zip(self.told.operations, self.split.shares, strict=True))
        if any(o.op in SYNCHRONISING and share is None for o, share in pairs):
            return [None] * len(PARTS)
        spans = [span for pair in pairs if (span := communication(*pair)) is not None]
        end = self.window.begin + round(self.window.seconds * 1e9)
        found = parts(self.window.begin, end, timeline.compute, [*spans, *timeline.others], self.pipeline)
        told: list[float | None] = [value / 1e9 for value in astuple(found)]
        unknown = [*([] if self.pipeline else ["bubble_s"]), *([] if spans or timeline.others else COMMUNICATION)]
        return [None if name in unknown else value for name, value in zip(PARTS, told, strict=True)]

    def totals(self) -> tuple[float, float, int, int]:
        """Seconds of transfer and of waiting in all that synchronises, in how many somebody can be late, and in how
        many of these nobody came later than this rank."""
        pairs = [(o, s) for o, s in zip(self.told.operations, self.split.shares, strict=True) if o.op in SYNCHRONISING]
        transfer, wait = seconds([o for o, _ in pairs], [share for _, share in pairs])
        known = [share for _, share in self.blamable() if share is not None]
        return transfer, wait, len(known), sum(share.wait == 0 for share in known)

    def blamable(self) -> list[tuple[Operation, Share | None]]:
        """The operations in which a rank can be late: what stages wait for each other no rank has caused."""
        pairs = zip(self.told.operations, self.split.shares, strict=True)
        return [(o, share) for o, share in pairs if not (self.pipeline and o.group in ACROSS)]

    def line(self) -> dict[str, Any]:
        """The `sample` record of this rank, of an account with a window."""
        assert self.window is not None
        transfer, wait, count, last = self.totals()
        pairs = self.blamable()
        blamed = waited_for([o for o, _ in pairs], [share for _, share in pairs])
        return {
            "step": self.told.step,
            "rank": self.rank,
            "source": self.told.source,
            "partial": self.partial,
            "transfer_s": transfer,
            "wait_s": wait,
            "operations": count,
            "last": last,
            "waited_for": [{"rank": rank, "wait_s": waited} for rank, waited in blamed],
            "step_s": self.window.seconds,
            **dict(zip(PARTS, self.parts, strict=True)),
        }

    def row(self) -> Tensor:
        """What ranks gather: the operations' own row, then the parts of WAITS, NaN where there is nothing to tell."""
        by_pair = [self._seconds(pair) for pair in self.told.pairs]
        mine: tuple[Sequence[float], ...] = (
            [transfer for transfer, _ in by_pair],
            [wait for _, wait in by_pair],
            [float(value) for value in self.totals()],
            [
                nan if self.window is None else self.window.seconds,
                *(nan if part is None else part for part in self.parts),
            ],
        )
        padded = [value for part, length in zip(mine, WAITS, strict=True) for value in pad(part, length)]
        own = self.told.row()
        own[-2] = float(self.partial)
        return torch.cat([own, torch.tensor(padded, dtype=torch.float64)])

    def collectives(self, rows: Tensor) -> dict[str, Any]:
        """The `collectives` record from the rows of the gathered ranks [ranks, n], of which the first is this one's."""
        told = self.told.record(rows[:, :OWN], self.told.source)
        alike = rows[rows[:, OWN - 1] == rows[0, OWN - 1]]
        transfers, waits, _, _ = alike[:, OWN:].split(WAITS, dim=1)
        for (group, op), transfer, wait in zip(self.told.pairs, middle(transfers), middle(waits), strict=False):
            told["groups"][group][op] |= {"transfer_s": transfer, "wait_s": wait}
        return {**told, "last": last(rows)}

    def exposure(self, rows: Tensor) -> dict[str, Any]:
        """The `exposure` record from the same rows: medians over the ranks whose steps' parts are known."""
        assert self.told.timeline is not None
        totals, told = rows[:, OWN:].split(WAITS, dim=1)[2:]
        transfer, wait, *_ = middle(totals)
        known = told[~told[:, 1].isnan()]
        step, *found = middle(known if len(known) else told)
        return {
            "step": self.told.step,
            "source": self.told.timeline.source,
            "partial": bool(rows[:, OWN - 2].any()) or len(known) < len(told),
            "ranks": len(known),
            "transfer_s": transfer,
            "wait_s": wait,
            "step_s": step,
            **dict(zip(PARTS, found, strict=True)),
        }

    def _seconds(self, pair: tuple[str, str]) -> tuple[float, float]:
        if pair[1] not in SYNCHRONISING:
            return nan, nan
        shares = {id(o): share for o, share in zip(self.told.operations, self.split.shares, strict=True)}
        operations = self.told.through[pair]
        return seconds(operations, [shares[id(o)] for o in operations])


def communication(operation: Operation, share: Share | None) -> Communication | None:
    """An operation on the step's timeline, if it is known when it ran."""
    if operation.start is None or operation.duration is None:
        return None
    start = round(operation.start * 1e9)
    transfer = None if share is None else round(share.transfer * 1e9)
    return Communication(operation.op, operation.group, start, start + round(operation.duration * 1e9), transfer)


def last(rows: Tensor) -> dict[str, Any] | None:
    """The rank that came last in the largest share of its synchronising operations; None where there were none, or
    several ranks have the largest share."""
    counts, lasts = rows[:, OWN + 2 * PAIRS + 2], rows[:, OWN + 2 * PAIRS + 3]
    shares = (lasts / counts).nan_to_num(-1.0)
    largest = shares.max()
    foremost = (shares == largest).nonzero().flatten().tolist()
    return {"rank": foremost[0], "share": largest.item()} if largest >= 0 and len(foremost) == 1 else None


def pipelined(labels: Mapping[str, tuple[str, int]]) -> bool:
    """Whether ranks are stages of a pipeline."""
    return any(label == PIPELINE for label, _ in labels.values())
