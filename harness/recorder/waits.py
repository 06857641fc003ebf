"""Transfer and waiting apart: of a collective that synchronises, the shortest time over its group is transfer, and what
a rank took longer it waited for the one that came last.

A rank that comes last waits for nobody, so the shortest time is its own. Nothing is known of clocks on other hosts.
"""

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

from harness.recorder.exchange import RANK_BITS
from harness.recorder.operations import Operation, union_seconds

SYNCHRONISING = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")

UNTIMED = -1
"""In place of the time of an operation that has none of its own; the smallest, so that no rank splits it."""

BEYOND = 2**63 - 1
"""In the places behind the last operation."""

BLAMED = 8
"""Ranks that a sample names as waited for."""


@dataclass(frozen=True)
class Share:
    """One operation on one rank: seconds of transfer and of waiting, and the rank that came last."""

    transfer: float
    wait: float
    last: int


@dataclass(frozen=True)
class Split:
    """The shares of a step's operations, in their order; None of those that are not split.

    agreed: whether all ranks of each of this rank's groups saw the same operations in the same order.
    """

    shares: list[Share | None]
    agreed: bool


def synchronising(operations: Sequence[Operation], group: str) -> list[Operation]:
    """Those of a group that synchronise, in the order in which they were issued."""
    return [o for o in operations if o.group == group and o.op in SYNCHRONISING]


def packed(operations: Sequence[Operation], rank: int, capacity: int) -> list[int]:
    """Numbers [capacity + 2] whose element-wise minimum over a group tells each operation's shortest time and its rank.

    Nanoseconds above RANK_BITS of the rank; in the last two places a hash of the sequence and its negative, which
    stay each other's negatives where all ranks saw the same. More operations than fit agree with nothing.
    """
    if len(operations) > capacity:
        return [BEYOND] * capacity + [0, -1]
    # of an exchange of tokens each rank has another size
    told = [(o.op, 0 if o.op == "all_to_all" else o.bytes) for o in operations]
    number = zlib.crc32(repr(told).encode()) + 2
    times = [UNTIMED if (time := nanoseconds(o)) is None else (time << RANK_BITS) | rank for o in operations]
    return [*times, *[BEYOND] * (capacity - len(times)), number, -number]


def nanoseconds(operation: Operation) -> int | None:
    """The operation's own time, if it has one."""
    if operation.duration is None or operation.batched:
        return None
    return round(operation.duration * 1e9)


def split(operations: Sequence[Operation], smallest: Mapping[str, Sequence[int]]) -> Split:
    """Each operation's share of transfer and waiting, from the minima of `packed` over each group.

    Operations of groups that are not among them are not split.
    """
    shares: list[Share | None] = [None] * len(operations)
    agreed = True
    for group, minima in smallest.items():
        if minima[-2] != -minima[-1]:
            agreed = False
            continue
        numbers = [i for i, o in enumerate(operations) if o.group == group and o.op in SYNCHRONISING]
        for index, least in zip(numbers, minima, strict=False):
            own = nanoseconds(operations[index])
            if own is not None and least != UNTIMED:
                transfer = least >> RANK_BITS
                shares[index] = Share(transfer / 1e9, (own - transfer) / 1e9, least & ((1 << RANK_BITS) - 1))
    return Split(shares, agreed)


def seconds(operations: Sequence[Operation], shares: Sequence[Share | None]) -> tuple[float, float]:
    """Seconds of transfer and of waiting in these operations; NaN where there are none or one is not split.

    Where their times are known, what overlaps counts once, and as transfer where one waits while another transfers;
    else they are summed. Together they are `operations.busy_seconds`.
    """
    known = [(o, share) for o, share in zip(operations, shares, strict=True) if share is not None]
    if not known or len(known) < len(operations):
        return nan, nan
    if any(o.start is None for o, _ in known):
        return sum(share.transfer for _, share in known), sum(share.wait for _, share in known)
    moving = union_seconds([((o.start or 0.0) + share.wait, share.transfer) for o, share in known])
    busy = union_seconds([(o.start or 0.0, share.wait + share.transfer) for o, share in known])
    return moving, max(0.0, busy - moving)


def waited_for(operations: Sequence[Operation], shares: Sequence[Share | None]) -> list[tuple[int, float]]:
    """The ranks that this one waited for and how many seconds, longest first; of what overlaps, each counts once."""
    waits: dict[int, list[tuple[float | None, float]]] = defaultdict(list)
    for operation, share in zip(operations, shares, strict=True):
        if share is not None and share.wait > 0:
            waits[share.last].append((operation.start, share.wait))
    blamed = {
        rank: sum(wait for _, wait in spans)
        if any(start is None for start, _ in spans)
        else union_seconds([(start or 0.0, wait) for start, wait in spans])
        for rank, spans in waits.items()
    }
    return sorted(blamed.items(), key=lambda told: (-told[1], told[0]))[:BLAMED]
