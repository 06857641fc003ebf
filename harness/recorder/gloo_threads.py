"""Which of the spans that gloo's threads ran is which operation: a span tells no group, but each thread serves one."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

Kind = tuple[str, int]
"""What an operation and its span both tell: gloo's name for it, and the number of elements."""


@dataclass(frozen=True)
class Issued:
    """An operation as it was issued: the name of its group, its kind, when (nanoseconds)."""

    group: str
    kind: Kind
    at: int


@dataclass(frozen=True)
class Span:
    """An operation as it ran: on which of gloo's threads, its kind, from when to when (nanoseconds)."""

    thread: int
    kind: Kind
    start: int
    end: int


def learn(known: dict[int, str], issued: Sequence[Issued], spans: Sequence[Span]) -> None:
    """Add to `known` the groups of the threads that can be told from a window, which have them for good.

    A thread is its group's where it starts what only one group has waiting. What is known of some threads makes
    others certain, so the timeline is gone through until nothing is learnt any more.
    """
    timeline: list[Issued | Span] = [*issued, *spans]
    timeline.sort(key=lambda event: event.at if isinstance(event, Issued) else event.start)
    before = -1
    while len(known) > before:
        before = len(known)
        waiting: dict[Kind, list[str]] = defaultdict(list)
        started: dict[Kind, int] = defaultdict(int)
        for event in timeline:
            groups = waiting[event.kind]
            if isinstance(event, Issued):
                groups.append(event.group)
                continue
            if event.thread not in known and len(set(groups)) == 1:
                known[event.thread] = groups[0]
            if known.get(event.thread) in groups:
                groups.remove(known[event.thread])
            else:
                started[event.kind] += 1
            if started[event.kind] == len(groups):
                # all that waited has started, whichever was which
                groups.clear()
                started[event.kind] = 0


def joined(known: dict[int, str], issued: Sequence[Issued], spans: Sequence[Span]) -> list[Span | None]:
    """The span of each operation, in their order; None where it can't be told.

    A group's threads, by `known`, take its operations in the order in which they were issued.
    """
    run: dict[tuple[str | None, Kind], list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start):
        run[known.get(span.thread), span.kind].append(span)
    asked: dict[tuple[str, Kind], list[int]] = defaultdict(list)
    for index, operation in enumerate(issued):
        asked[operation.group, operation.kind].append(index)
    found: list[Span | None] = [None] * len(issued)
    for key, indices in asked.items():
        if len(run[key]) == len(indices):
            for index, span in zip(indices, run[key], strict=True):
                found[index] = span
    return found
