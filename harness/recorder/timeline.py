"""Where a step's time went on one rank: computing, exchanging, waiting for others, or none of these.

Pure arithmetic on intervals, in whole nanoseconds, so that the parts of a step sum to it exactly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Interval = tuple[int, int]
"""From when to when, in nanoseconds since the epoch."""

SENDS = "send_recv"
PIPELINE = "pp"

ACROSS = (PIPELINE, "world")
"""Groups with ranks of several stages, where there is a pipeline: waiting there is for what the schedule leaves."""


@dataclass(frozen=True)
class Communication:
    """An operation under way on this rank from `start` to `end`, in nanoseconds.

    transfer: how much of it, at its end, is transfer; what comes before is waiting. None where that is not split:
    then all of it counts as transfer, or of a pipeline's sends as its bubble.
    """

    op: str
    group: str
    start: int
    end: int
    transfer: int | None


@dataclass(frozen=True)
class Timeline:
    """What a window of a profiler saw of a step on this rank: where it computed, and what of its communication is
    told nowhere else; `operations.Operation` has the rest.

    source: `profiler` or `kineto`; whole: whether every operation was found.
    """

    source: str
    compute: Sequence[Interval]
    others: Sequence[Communication]
    whole: bool


@dataclass(frozen=True)
class Parts:
    """What a step is made of, in nanoseconds: each moment of it belongs to one of these."""

    compute: int
    overlapped: int
    exposed_transfer: int
    exposed_wait: int
    bubble: int
    idle: int


def parts(
    begin: int, end: int, compute: Iterable[Interval], communications: Iterable[Communication], pipeline: bool
) -> Parts:
    """The parts of a step from `begin` to `end`; what lies outside is cut off. pipeline: whether there are stages.

    A moment in which the rank computes is `overlapped` if a collective is under way as well, else `compute`. In any
    other one transfer goes before waiting, and both before a pipeline's sends: of what goes on at once, it is the
    work on the links that would still have to be done if nobody were late. A pipeline's sends under computation are
    not `overlapped`: they last until the neighbour takes them, which says nothing of the links. What ranks of several
    stages wait for each other is `bubble` like the sends: early stages end last.
    """
    layers: dict[str, list[Interval]] = {"compute": list(compute), "transfer": [], "wait": [], "bubble": []}
    for span in communications:
        if pipeline and span.op == SENDS and span.group == PIPELINE:
            layers["bubble"].append((span.start, span.end))
            continue
        arrived = span.start if span.transfer is None else max(span.start, span.end - span.transfer)
        layers["bubble" if pipeline and span.group in ACROSS else "wait"].append((span.start, arrived))
        layers["transfer"].append((arrived, span.end))
    changes: list[tuple[int, str, int]] = []
    for layer, intervals in layers.items():
        for start, stop in intervals:
            if (first := max(start, begin)) < (last := min(stop, end)):
                changes += [(first, layer, 1), (last, layer, -1)]
    running = dict.fromkeys(layers, 0)
    spent = {"compute": 0, "overlapped": 0, "exposed_transfer": 0, "exposed_wait": 0, "bubble": 0, "idle": 0}
    reached = begin
    for moment, layer, change in [*sorted(changes), (end, "compute", 0)]:
        spent[_kind(running)] += moment - reached
        running[layer] += change
        reached = moment
    return Parts(**spent)


def _kind(running: dict[str, int]) -> str:
    if running["compute"]:
        return "overlapped" if running["transfer"] or running["wait"] else "compute"
    if running["transfer"]:
        return "exposed_transfer"
    if running["wait"]:
        return "exposed_wait"
    return "bubble" if running["bubble"] else "idle"


def without(intervals: Iterable[Interval], taken: Iterable[Interval]) -> list[Interval]:
    """What of the intervals' union lies in none of those that are taken."""
    changes = [change for start, end in intervals for change in ((start, 0, 1), (end, 0, -1))]
    changes += [change for start, end in taken for change in ((start, 1, 1), (end, 1, -1))]
    running, left, since = [0, 0], list[Interval](), None
    for moment, layer, change in sorted(changes):
        running[layer] += change
        inside = running[0] > 0 and running[1] == 0
        if inside and since is None:
            since = moment
        elif not inside and since is not None:
            if moment > since:
                left.append((since, moment))
            since = None
    return left
