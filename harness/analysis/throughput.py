"""How fast the measured window went on its slowest rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.intervals import Interval, within_run
from harness.analysis.read import Record
from harness.analysis.steps import Attempts, kept, latest
from harness.config import Config
from harness.plan import hardware

SLOW_PRODUCT = 0.9
"""Share of the median rate at which a GPU's matrix product is called slow."""


@dataclass(frozen=True)
class Throughput:
    """Rates of the window of `steps` measured steps.

    `window_s` is its length on the slowest rank; `seconds` are its steps' durations in order, each on the rank that was
    slowest in it.
    """

    steps: int
    window_s: float
    tokens_per_s: Interval
    seconds: list[float]
    data_share: float
    p25: float
    p50: float
    p75: float
    p95: float
    p99: float
    mad: float
    slowest: "Slowest | None"


@dataclass(frozen=True)
class Slowest:
    """The rank that was slowest in most of the measured steps; `by` is the share that these took longer on it than on
    the fastest rank, as median."""

    rank: int
    by: float


def throughput(events: Attempts) -> Throughput | None:
    """The measured window, or None where no step was measured.

    Tokens/s divide by the window of the slowest rank. The sum of each step's slowest would be longer: where a step
    ends shifts between ranks, which cancels within a rank and adds up over the maxima of many. Where `ranks` does not
    cover a step, it lasts as on rank 0. MAD is the median absolute deviation from the median, unscaled.
    """
    steps = [record for record in kept(events) if record["role"] == "measured"]
    own: list[float] = [record["duration_s"] for record in steps]
    if not sum(own):
        return None
    slowest = _slowest(events)
    seconds: list[float] = [
        slowest.get((record["attempt"], record["step"]), mine) for record, mine in zip(steps, own, strict=True)
    ]
    durations = np.asarray(seconds)
    stretches = {attempt: _stretch(records) for attempt, records in events.items()}
    window = [mine * stretches[record["attempt"]] for record, mine in zip(steps, own, strict=True)]
    p25, p50, p75, p95, p99 = (float(value) for value in np.quantile(durations, (0.25, 0.5, 0.75, 0.95, 0.99)))
    return Throughput(
        steps=len(steps),
        window_s=sum(window),
        tokens_per_s=within_run([record["tokens"] for record in steps], window),
        seconds=seconds,
        data_share=sum(record["data_s"] for record in steps) / sum(own),
        p25=p25,
        p50=p50,
        p75=p75,
        p95=p95,
        p99=p99,
        mad=float(np.median(np.abs(durations - p50))),
        slowest=_slowest_rank(events, {(record["attempt"], record["step"]) for record in steps}),
    )


def utilisation(flops_per_token: float, tokens_per_s: float, config: Config, device_name: str | None) -> float | None:
    """Model FLOPs utilisation on each GPU: FLOPs of a token · tokens/s of one GPU ÷ dense peak of the precision in use.

    None where the device's peak is not known, and so on a CPU.
    """
    device = hardware.find(device_name) if device_name else None
    peak = device.peak(config.precision) if device else None
    if not peak:
        return None
    return flops_per_token * tokens_per_s / peak


def attained(flops_per_token: float, tokens_per_s: float, start: Record) -> float | None:
    """FLOPs of a token · tokens/s of one GPU ÷ the rate of a large matrix product there, median over ranks."""
    matmul = start.get("matmul")
    return flops_per_token * tokens_per_s / matmul["flops_per_s"] if matmul else None


def slow_products(start: Record) -> str | None:
    """A sentence where a GPU's matrix product was clearly slower than the others', or None."""
    matmul = start.get("matmul")
    if not matmul or start["device"] != "cuda":
        return None
    share = matmul["slowest_flops_per_s"] / matmul["flops_per_s"]
    if share > SLOW_PRODUCT:
        return None
    return f"the GPU of rank {matmul['slowest_rank']} reaches {share:.0%} of the others' matrix product rate"


def _slowest(events: Attempts) -> dict[tuple[int, int], float]:
    """Seconds of the slowest rank by attempt and step."""
    seconds: dict[tuple[int, int], float] = {}
    for attempt, records in events.items():
        for record in records:
            if record["kind"] == "ranks":
                numbers = range(record["step_first"], record["step_last"] + 1)
                for step, duration in zip(numbers, record["duration_max_s"], strict=False):
                    seconds[attempt, step] = duration
    return seconds


def _slowest_rank(events: Attempts, measured: set[tuple[int, int]]) -> Slowest | None:
    """Of several ranks the one that was slowest most often, over the measured steps that `ranks` covers."""
    if (latest(events, "start") or {}).get("world_size") == 1:
        return None
    excess: dict[int, list[float]] = {}
    for attempt, records in events.items():
        for record in records:
            if record["kind"] == "ranks":
                numbers = range(record["step_first"], record["step_last"] + 1)
                told = zip(
                    numbers, record["slowest_rank"], record["duration_max_s"], record["duration_min_s"], strict=False
                )
                for step, rank, longest, shortest in told:
                    if (attempt, step) in measured and shortest:
                        excess.setdefault(rank, []).append(longest / shortest - 1)
    if not excess:
        return None
    rank = max(sorted(excess), key=lambda rank: len(excess[rank]))
    return Slowest(rank, float(np.median(excess[rank])))


def _stretch(records: Sequence[Record]) -> float:
    """The measured window of an attempt's slowest rank over rank 0's, as far as `ranks` tells."""
    last = next((record for record in reversed(records) if record["kind"] == "ranks"), None)
    own = sum(
        record["duration_s"]
        for record in records
        if last and record["kind"] == "step" and record["role"] == "measured" and record["step"] <= last["step_last"]
    )
    return last["window_s"] / own if last and own else 1.0
