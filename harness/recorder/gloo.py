"""gloo's collectives of a step: times from a window of PyTorch's profiler around it, groups and sizes from the flight
recorder."""

import time
from bisect import bisect_right
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from harness.recorder.flight import Entry, elements, entries, exchanges, operation, uneven
from harness.recorder.gloo_threads import Issued, Span, joined, learn
from harness.recorder.groups import Groups
from harness.recorder.operations import Operation, StepOperations
from harness.recorder.sends import Sends
from harness.recorder.timeline import PIPELINE, SENDS, Communication, Interval, Timeline, without

ISSUED = {
    "c10d::allreduce_": "all_reduce",
    "c10d::allreduce_coalesced_": "all_reduce",
    "c10d::allgather_": "all_gather",
    "c10d::allgather_coalesced_": "all_gather",
    "c10d::allgather_into_tensor_coalesced_": "all_gather",
    "c10d::_allgather_base_": "all_gather",
    "c10d::reduce_scatter_": "reduce_scatter",
    "c10d::reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "c10d::_reduce_scatter_base_": "reduce_scatter",
    "c10d::alltoall_": "all_to_all",
    "c10d::alltoall_base_": "all_to_all",
    "c10d::broadcast_": "broadcast",
    "c10d::reduce_": "reduce",
}
"""What was asked for. gloo's own names are of what it runs: a reduce-scatter is one all-reduce or several."""

COMPUTES = ("aten::", "## Call CompiledFxGraph", "Torch-Compiled Region")
"""How spans begin in which a rank computes; the host's own code between them is none of it."""

WAITS = "_c10d_functional::wait_tensor"
"""What compiled code calls to wait."""

SPANS_OF_SENDS = ("gloo:send", "gloo:recv")
"""On the thread that trains, unlike all other spans of gloo's, until that waits for them."""

PATIENCE_S = 0.3
"""How long to wait for gloo's threads to be done with the step's operations."""

POLL_S = 0.001


@dataclass(frozen=True)
class Call:
    """One call to a process group: what it is of ours, when it began, the flight recorder's entries that it made."""

    op: str | None
    began: int
    parts: list[Entry]


class GlooSampler:
    """Profiles one step. The profiler slows that step down, which is why it stands outside the window."""

    def __init__(self, labels: Mapping[str, tuple[str, int]]) -> None:
        self.groups = Groups(labels)
        self.sends = Sends()
        self.threads: dict[int, str] = {}
        self.profiler: profile | None = None
        self.shapes = True
        self.began = 0

    def before_sampled_step(self, step: int) -> None:
        self.began = time.time_ns()
        self.sends.start()
        self.profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=self.shapes)
        self.profiler.start()

    def after_sampled_step(self, step: int) -> list[StepOperations]:
        assert self.profiler is not None and self.profiler.profiler is not None
        patience = time.monotonic() + PATIENCE_S
        while True:
            ring = dump()
            own = [entry for entry in ring if entry["time_created_ns"] >= self.began]
            # a span ends after the program has got the result
            if all(entry["retired"] for entry in own) or time.monotonic() > patience:
                break
            time.sleep(POLL_S)
        self.profiler.stop()
        sent = self.sends.stop()
        results = self.profiler.profiler.kineto_results
        assert results is not None
        # in the order of their starts; each look at one of thousands costs half a microsecond
        named = [(event, event.name()) for event in results.events()]
        self.profiler = None
        communicating = [event for event, name in named if name.startswith(("c10d::", "gloo:"))]
        calls = calls_of(communicating, own)
        told = [*self._collectives(calls, communicating)]
        # the span of a send lasts until the program waits for it, which may be long after it has gone
        told += [Operation("send_recv", *self.groups[send.group], send.bytes, None, None) for send in sent]
        # a ring that has wrapped round has lost the oldest entries of the step
        lost = bool(ring) and ring[0]["record_id"] > 0 and ring[0]["time_created_ns"] >= self.began
        missing = any(call.op is not None and not call.parts for call in calls)
        untimed = any(o.duration is None for o in told if o.op != "send_recv")
        partial = lost or missing or untimed
        return [StepOperations(step, told, partial, timeline=timeline(named, whole=not partial))]

    def step_issued(self, step: int, began: int) -> None:
        pass

    def _collectives(self, calls: Sequence[Call], events: Sequence[Any]) -> Iterator[Operation]:
        """The collectives; those that can't be found among the spans have no times.

        Where the threads of all are known, their order tells them apart. Sizes, which make up half of what a window
        costs, are then left out of the next one.
        """
        issued = [
            Issued(
                part["process_group"][0],
                (part["profiling_name"], elements(part["input_sizes"]) if self.shapes else 0),
                call.began,
            )
            for call in calls
            for part in call.parts
        ]
        spans = [
            Span(event.start_thread_id(), (event.name(), elements(event.shapes())), event.start_ns(), event.end_ns())
            for event in events
            if event.name().startswith("gloo:")
        ]
        learn(self.threads, issued, spans)
        matched = joined(self.threads, issued, spans)
        self.shapes = None in matched
        found = iter(matched)
        spread = uneven([part for call in calls if call.op == "all_to_all" for part in call.parts])
        for call in calls:
            ran = [next(found) for _ in call.parts]
            if call.op is None or not call.parts:
                continue
            start, duration = extent(ran)
            spreads = call.op == "all_to_all" and exchanges(call.parts[0]) in spread
            yield operation(call.op, call.parts, self.groups, start, duration, uneven=spreads)


def calls_of(events: Sequence[Any], own: Sequence[Entry]) -> list[Call]:
    """The calls in a window; the entries of each were made before the next one began."""
    called = [event for event in events if event.name().startswith("c10d::")]
    calls = [Call(ISSUED.get(event.name()), event.start_ns(), []) for event in called]
    begins = [call.began for call in calls]
    for entry in own:
        if (index := bisect_right(begins, entry["time_created_ns"])) > 0:
            calls[index - 1].parts.append(entry)
    return calls


def timeline(named: Sequence[tuple[Any, str]], whole: bool) -> Timeline:
    """Where the rank computed, and its sends: a pipeline's, since nothing else sends from rank to rank.

    named: a window's events in the order of their starts, each with its name.
    """
    gloos = [(event, name) for event, name in named if name.startswith("gloo:")]
    # gloo's own threads copy and add up what they move
    moving = {event.start_thread_id() for event, name in gloos if name not in SPANS_OF_SENDS}
    sends = [
        Communication(SENDS, PIPELINE, event.start_ns(), event.end_ns(), None)
        for event, name in gloos
        if name in SPANS_OF_SENDS
    ]
    waits = [(event.start_ns(), event.end_ns()) for event, name in named if name == WAITS]
    return Timeline("profiler", without(computed(named, moving), waits), sends, whole)


def computed(named: Sequence[tuple[Any, str]], moving: Container[int]) -> Iterator[Interval]:
    """Spans in which threads compute that are not `moving`, without those that lie within earlier ones."""
    reached = 0
    for event, name in named:
        if name.startswith(COMPUTES) and (end := event.end_ns()) > reached and event.start_thread_id() not in moving:
            yield event.start_ns(), end
            reached = end


def extent(spans: Sequence[Span | None]) -> tuple[float | None, float | None]:
    """Start and duration in seconds from the first to the last of the spans, if all are known."""
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return None, None
    start = min(span.start for span in known)
    return start / 1e9, (max(span.end for span in known) - start) / 1e9


def dump() -> list[Entry]:
    """gloo's entries, oldest first, without stacks."""
    return entries(
        torch._C._distributed_c10d._dump_fr_trace(  # type: ignore[attr-defined]  # the stubs lack it
            includeCollectives=True, includeStackTraces=False, onlyActive=False
        )
    )
