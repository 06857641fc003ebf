"""Which steps of a point count, over its attempts."""

from collections.abc import Mapping, Sequence

from harness.analysis.read import Record

Attempts = Mapping[int, Sequence[Record]]


def kept(events: Attempts, kind: str = "step") -> list[Record]:
    """One record a step, in order: of a step that several attempts ran, the last attempt's."""
    latest: dict[int, Record] = {}
    for attempt in sorted(events):
        latest |= {record["step"]: record for record in events[attempt] if record["kind"] == kind}
    return [latest[step] for step in sorted(latest)]


def first(events: Attempts, kind: str) -> Record | None:
    """The latest attempt's first record of a kind, such as its `start`."""
    for attempt in sorted(events, reverse=True):
        for record in events[attempt]:
            if record["kind"] == kind:
                return record
    return None
