"""Who comes last, how often, how much waiting that causes, and whether one rank stands out."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.analysis.intervals import student
from harness.analysis.read import Record

SHARE = 0.05
"""Of a step that a rank must keep others waiting to be named."""

FEWEST = 3
"""Sampled steps below which nobody is named."""

Step = tuple[int, int, str]
"""Attempt, step, and the source of the account."""


@dataclass(frozen=True)
class Straggler:
    """A rank that keeps others waiting: median seconds of a sampled step, and their share of it."""

    rank: int
    caused_s: float
    share: float


@dataclass(frozen=True)
class Arrivals:
    """The rank that came last in the largest share of its synchronising operations, unless several have that share;
    the straggler, if there is one."""

    last_rank: int | None
    last_share: float | None
    straggler: Straggler | None


def arrivals(samples: Iterable[Record], step_s: Mapping[tuple[int, int], float]) -> Arrivals:
    """From all ranks' `sample` records and the seconds of each sampled step by attempt and step.

    What a rank causes in a step is the longest that any rank waited for it, less what it waited itself: one that was
    kept waiting only passes on how late it is. A rank is named where the median over the steps is at least SHARE of a
    step and twice that of any other, and where it leads the others by more than chance makes a rank lead: on average
    over the steps by twice the half-width of the 95 % interval of its lead.
    """
    lasts: dict[int, int] = defaultdict(int)
    counts: dict[int, int] = defaultdict(int)
    longest: dict[Step, dict[int, float]] = defaultdict(dict)
    own: dict[Step, dict[int, float]] = defaultdict(dict)
    for record in samples:
        rank, step = record["rank"], (record["attempt"], record["step"], record["source"])
        lasts[rank] += record["last"]
        counts[rank] += record["operations"]
        own[step][rank] = record["wait_s"] or 0.0
        for waited in record["waited_for"]:
            found = longest[step]
            found[waited["rank"]] = max(found.get(waited["rank"], 0.0), waited["wait_s"])
    shares = {rank: lasts[rank] / count for rank, count in counts.items() if count}
    if not shares:
        return Arrivals(None, None, None)
    largest = max(shares.values())
    foremost = [rank for rank, share in shares.items() if share == largest]
    last, share = (foremost[0], largest) if len(foremost) == 1 else (None, None)
    ranks = sorted({rank for waits in own.values() for rank in waits})
    caused = np.array(
        [[longest[step].get(rank, 0.0) - waits.get(rank, 0.0) for rank in ranks] for step, waits in own.items()]
    )
    durations = [step_s[step[:2]] for step in own if step[:2] in step_s]
    return Arrivals(last, share, _straggler(ranks, caused, durations))


def _straggler(ranks: list[int], caused: np.ndarray, durations: list[float]) -> Straggler | None:
    """The rank that stands out in `caused` [steps, ranks], in seconds."""
    if len(caused) < FEWEST or len(ranks) < 2 or not durations:
        return None
    middle = np.median(caused, axis=0)
    worst = int(middle.argmax())
    typical, others = float(middle[worst]), np.delete(caused, worst, axis=1)
    lead = caused[:, worst] - others.max(axis=1)
    half = student(len(lead) - 1) * lead.std(ddof=1) / np.sqrt(len(lead))
    clear = lead.mean() > 2 * half and typical >= 2 * np.delete(middle, worst).max()
    share = typical / float(np.median(durations))
    return Straggler(ranks[worst], typical, share) if clear and share >= SHARE else None


def sentence(straggler: Straggler, hosts: list[str], world_size: int) -> str:
    """What a person is told of it: `rank 5 on node03 keeps others waiting 12.3 ms of a step (4.1 %)`."""
    host = host_of(straggler.rank, hosts, world_size)
    where = f" on {host}" if host else ""
    caused = 1e3 * straggler.caused_s
    waiting = f"{caused:{'.3g' if caused < 999.5 else ',.0f'}} ms of a step ({100 * straggler.share:.1f} %)"
    return f"rank {straggler.rank}{where} keeps others waiting {waiting}"


def host_of(rank: int, hosts: list[str], world_size: int) -> str | None:
    """The host of a rank, where hosts are known: each has as many."""
    return hosts[rank * len(hosts) // world_size] if hosts else None
