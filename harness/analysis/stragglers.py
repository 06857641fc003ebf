"""Who comes last, how often, how much waiting that causes, and whether one rank stands out."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from harness.analysis.intervals import student
from harness.analysis.read import Record

SHARE = 0.05
"""Of a step that a rank must keep others waiting to be named."""

FEWEST = 3
"""Sampled steps below which nobody is named."""

FOREMOST = 64
"""Ranks of a run that are told one by one: a bad GPU or node is among them, and thousands would only fill a page."""

Step = tuple[int, int, str]
"""Attempt, step, and the source of the account."""


@dataclass(frozen=True)
class Straggler:
    """A rank that keeps others waiting: median seconds of a sampled step, and their share of it."""

    rank: int
    caused_s: float
    share: float


@dataclass(frozen=True)
class Cause:
    """A rank and the waiting that it causes: median seconds of a sampled step, below zero where it waits longer itself
    than any other for it; the share of its synchronising operations in which it came last; its host, once known."""

    rank: int
    caused_s: float
    last_share: float | None
    host: str | None = None


@dataclass(frozen=True)
class Waiting:
    """The ranks of a run that cause most waiting, most first, of how many `ranks` that told over how many steps."""

    ranks: int
    sampled_steps: int
    foremost: list[Cause]

    def placed(self, hosts: list[str], world_size: int) -> "Waiting":
        """The same with the ranks' hosts."""
        found = [replace(each, host=host_of(each.rank, hosts, world_size)) for each in self.foremost]
        return replace(self, foremost=found)


@dataclass(frozen=True)
class Arrivals:
    """The rank that came last in the largest share of its synchronising operations, unless several have that share;
    the straggler, if there is one; what ranks cause, null where none told."""

    last_rank: int | None
    last_share: float | None
    straggler: Straggler | None
    waiting: Waiting | None


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
        own[step][rank] = np.nan if record["wait_s"] is None else record["wait_s"]
        for blamed in record["waited_for"]:
            found = longest[step]
            found[blamed["rank"]] = max(found.get(blamed["rank"], 0.0), blamed["wait_s"])
    shares = {rank: lasts[rank] / count for rank, count in counts.items() if count}
    if not shares:
        return Arrivals(None, None, None, None)
    largest = max(shares.values())
    foremost = [rank for rank, share in shares.items() if share == largest]
    last, share = (foremost[0], largest) if len(foremost) == 1 else (None, None)
    ranks = sorted({rank for waits in own.values() for rank in waits})
    waited = np.array([[waits.get(rank, np.nan) for rank in ranks] for waits in own.values()])
    others = np.array([[longest[step].get(rank, 0.0) for rank in ranks] for step in own])
    durations = [step_s[step[:2]] for step in own if step[:2] in step_s]
    straggler = _straggler(ranks, others - np.nan_to_num(waited), durations)
    return Arrivals(last, share, straggler, _waiting(ranks, others - waited, shares))


def _waiting(ranks: list[int], caused: np.ndarray, shares: Mapping[int, float]) -> Waiting | None:
    """The foremost ranks by `caused` [steps, ranks], in seconds, NaN where a rank's own waiting is not known."""
    known = ~np.isnan(caused)
    told = np.flatnonzero(known.any(axis=0))
    if len(told) < 2:
        return None
    middle = np.nanmedian(caused[:, told], axis=0)
    most = np.argsort(-middle, kind="stable")[:FOREMOST]
    foremost = [(int(ranks[told[index]]), float(middle[index])) for index in most]
    causes = [Cause(rank, seconds, shares.get(rank)) for rank, seconds in foremost]
    return Waiting(len(told), int(known.any(axis=1).sum()), causes)


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
