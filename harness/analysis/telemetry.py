"""What devices did while a point trained: energy, clocks, throttling, and error counters that rose."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from harness.analysis import nodes
from harness.analysis.read import Record
from harness.analysis.steps import Attempts, kept

THROTTLED_SHARE = 0.1
"""Share of its polls inside training above which a GPU counts as throttled."""

MOST_NAMED = 8
"""Devices that one sentence names."""

Device = tuple[str, str]
"""Host, and the device's name on it."""

Counts = dict[str, int | None]
"""Error counters by name."""


@dataclass
class Span:
    """A GPU's polls inside the measured window: seconds and joules from the first to the last, clocks, reasons."""

    begin: tuple[float, float] | None = None
    end: tuple[float, float] | None = None
    polls: int = 0
    clocks: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, time: float, told: Record) -> None:
        energy = told["energy_j"]
        if energy is not None:
            self.begin = self.begin or (time, energy)
            self.end = (time, energy)
        if told["clock_sm_mhz"] is not None:
            self.clocks[told["clock_sm_mhz"]] += 1
        if told["throttling"] is not None:
            self.polls += 1
            self.reasons.update(told["throttling"])

    @property
    def power_w(self) -> float | None:
        """Mean power between the first and the last poll, by the energy counter; None with fewer than two polls."""
        if self.begin is None or self.end is None or self.end[0] <= self.begin[0]:
            return None
        return (self.end[1] - self.begin[1]) / (self.end[0] - self.begin[0])

    @property
    def throttling(self) -> dict[str, float]:
        """The reasons that held in more than THROTTLED_SHARE of the polls, with their shares."""
        shares = {reason: count / self.polls for reason, count in self.reasons.items()}
        return {reason: share for reason, share in sorted(shares.items()) if share > THROTTLED_SHARE}


@dataclass(frozen=True)
class Telemetry:
    """A point's telemetry in numbers; None for what nobody measured.

    `power_w_gpu` is the mean over GPUs, `power_w` the sum, None where one of the GPUs did not tell. `throttled` names
    GPUs and reasons; it is "none" where GPUs told and none was. `power_cap` has every cap that was enforced on one of
    the GPUs: `700 W`, or `500 W, 700 W`. `warnings` are sentences.
    """

    power_w_gpu: float | None
    power_w: float | None
    clock_sm_mhz_p50: float | None
    throttled: str | None
    power_cap: str | None
    warnings: list[str]


def telemetry(path: Path, events: Attempts, gpus: int) -> Telemetry:
    """The telemetry of the point in the run directory `path`, which was planned on `gpus` GPUs.

    Power, clocks and throttling are of the latest attempt that measured, between its first and its last measured step;
    power caps of all polls of the latest attempt; error counters of all attempts, from each device's first poll to its
    last.
    """
    window = _window(events)
    spans: defaultdict[Device, Span] = defaultdict(Span)
    rises: Counter[tuple[Device, str]] = Counter()
    failures: dict[str, str] = {}
    caps: set[float] = set()
    skipped: list[str] = []
    for attempt in sorted(events):
        node, before, caps = "", dict[Device, Counts](), set()
        for record in nodes.records(path / "attempts" / str(attempt), "telemetry", skipped):
            host, time = record["host"], record["time"]
            if host != node:  # a host's records lie together
                node, before = host, {}
            if record["warning"]:
                failures.setdefault(host, record["warning"])
            limits = (gpu.get("power_limit_w") for gpu in record["gpus"] or ())
            caps.update(watts for watts in limits if watts is not None)
            for device, told in _errors(record):
                known = before.setdefault(device, told)
                if told != known:
                    rises.update({(device, name): rise for name, rise in _rises(known, told)})
                    before[device] = known | {name: count for name, count in told.items() if count is not None}
            if window and window[0] <= time <= window[1]:
                for gpu in record["gpus"] or ():
                    spans[host, _name(gpu)].add(time, gpu)
    warnings = [*_throttling(spans), *_risen(rises), *_failed(failures), *nodes.passed_over("telemetry", skipped)]
    return _summed(spans, gpus, caps, warnings)


def _window(events: Attempts) -> tuple[float, float] | None:
    """When the first measured step of the latest attempt with such steps began, and the last ended."""
    measured = [step for step in kept(events) if step["role"] == "measured"]
    if not measured:
        return None
    attempt = max(step["attempt"] for step in measured)
    steps = [step for step in measured if step["attempt"] == attempt]
    return steps[0]["start"], steps[-1]["start"] + steps[-1]["duration_s"]


def _summed(spans: dict[Device, Span], gpus: int, caps: set[float], warnings: list[str]) -> Telemetry:
    powers = [span.power_w for span in spans.values() if span.power_w is not None]
    clocks = Counter[int]()
    for span in spans.values():
        clocks.update(span.clocks)
    polled = any(span.polls for span in spans.values())
    throttled = [f"{host} {gpu}: {' '.join(span.throttling)}" for (host, gpu), span in spans.items() if span.throttling]
    return Telemetry(
        power_w_gpu=sum(powers) / len(powers) if powers else None,
        power_w=sum(powers) if len(powers) == gpus else None,
        clock_sm_mhz_p50=float(median(clocks.elements())) if clocks else None,
        throttled=(_listed(throttled) or "none") if polled else None,
        power_cap=", ".join(f"{watts:g} W" for watts in sorted(caps)) or None,
        warnings=warnings,
    )


def _name(told: Record) -> str:
    """A GPU's name on its host: as nvidia-smi counts, or by its rank."""
    return f"rank {told['rank']}" if told["index"] is None else f"GPU {told['index']}"


def _errors(record: Record) -> Iterator[tuple[Device, Counts]]:
    """The error counters of each device of a record."""
    host = record["host"]
    for told in record["gpus"] or ():
        yield (host, _name(told)), told["errors"]
    for told in record["ports"] or ():
        yield (host, f"{told['device']} port {told['port']}"), told["errors"]
    for told in record["interfaces"] or ():
        yield (host, told["name"]), told["errors"]


def _rises(before: Counts, now: Counts) -> Iterator[tuple[str, int]]:
    """How much each counter rose; one that begins anew has lost nothing that it had told before."""
    for name, count in now.items():
        earlier = before.get(name)
        if count is not None and earlier is not None and count > earlier:
            yield name, count - earlier


def _throttling(spans: dict[Device, Span]) -> Iterator[str]:
    """A sentence for each reason."""
    held: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for (host, gpu), span in spans.items():
        for reason, share in span.throttling.items():
            held[reason].append((f"{host} {gpu}", share))
    for reason, found in sorted(held.items()):
        shares = [share for _, share in found]
        often = f"{min(shares):.0%}" if min(shares) == max(shares) else f"{min(shares):.0%} to {max(shares):.0%}"
        devices = _listed([device for device, _ in found])
        yield f"throttled by {reason} in {often} of the polls: {devices} ({len(found)} of {len(spans)} GPUs)"


def _risen(rises: Counter[tuple[Device, str]]) -> Iterator[str]:
    """A sentence for each error counter that rose on some device."""
    risen: defaultdict[str, list[str]] = defaultdict(list)
    for ((host, device), name), count in sorted(rises.items()):
        risen[name].append(f"{host} {device} by {count}")
    for name, found in sorted(risen.items()):
        yield f"the error counter {name} rose: {_listed(found)}"


def _failed(failures: dict[str, str]) -> Iterator[str]:
    if failures:
        first = min(failures)
        more = f" (and on {len(failures) - 1} other hosts)" if failures.keys() - {first} else ""
        yield f"telemetry of {first} is not whole{more}: {failures[first]}"


def _listed(devices: Sequence[str]) -> str:
    more = f" and {len(devices) - MOST_NAMED} more" if len(devices) > MOST_NAMED else ""
    return ", ".join(devices[:MOST_NAMED]) + more
