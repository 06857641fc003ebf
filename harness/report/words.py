"""Numbers and findings as a person reads them. Plain text: whoever puts it on a page escapes it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from harness.analysis.breakdown import NAMED, Breakdown
from harness.analysis.comparability import Difference
from harness.analysis.drift import Drift
from harness.analysis.efficiency import Curve
from harness.analysis.fingerprint import RECORDED, text
from harness.analysis.intervals import TELLING, Interval
from harness.analysis.outliers import Outlier
from harness.analysis.summary import Row
from harness.config import OPERATIONS
from harness.quantities import NONE, number
from harness.records import OPEN

UNSURE = "±?"
"""Behind a value of which its interval tells too little; where it is drawn, what is drawn is hollow."""
FIRST = 4
"""Sentences of the headline that stand first; the page folds the others, a terminal says where they are."""
BEYOND_IDEAL = 1.1
_CHECKPOINTING = {"none": "no", "selective": "selective", "full": "full"}
# What a part of a step's time is, behind "1.6 points are".
LOST_TO = {
    "transfer": "transfer that no computation covers",
    "wait": "waiting for the rank that comes last",
    "bubble": "the pipeline's bubble",
    "data": "waiting for data",
    "compute": "slower computation",
    "other": "time between operations",
}
MOST_NAMED = 8
"""Curves that one sentence names."""
FEW_NAMED = 3
"""Curves that it names of each value."""


def milliseconds(value: float | None) -> str:
    return NONE if value is None else number(value * 1e3)


def percent(value: float | None) -> str:
    """A share with one decimal, or two digits where it is below 1 %."""
    if value is None:
        return NONE
    return f"{value * 100:.1f} %" if abs(value) >= 0.01 or not value else f"{value * 100:.2g} %"


TOO_WIDE = f"an interval wider than {percent(TELLING)} of the value, or none"
"""Where a rate or an efficiency is too uncertain to tell."""


def span(interval: Interval) -> str:
    """The bounds of a share in percent: `[97.1, 98.4]`, or nothing."""
    if interval.lo is None or interval.hi is None:
        return ""
    return f"[{interval.lo * 100:.1f}, {interval.hi * 100:.1f}]"


def unit(rows: Sequence[Row]) -> str:
    """What the points scale over: `GPUs` where one is known to have run on some, else `ranks`."""
    return "GPUs" if any(row["backend"] not in (None, "gloo") for row in rows) else "ranks"


def names(rows: Sequence[Row]) -> list[str]:
    """One distinct short name a point: its label, with the repeat where there are several, else its slug."""
    repeats = any(row["repeat"] for row in rows)
    short = [f"{row['label']} r{row['repeat']}" if repeats else str(row["label"]) for row in rows]
    many = Counter(short)
    return [name if many[name] == 1 else str(row["slug"]) for name, row in zip(short, rows, strict=True)]


def headline(rows: Sequence[Row], curves: Sequence[Curve], lost: Sequence[Breakdown] = ()) -> list[str]:
    """One sentence a curve: what it keeps of its baseline's speed at its largest scale, and what most of the rest is
    lost to, by its breakdown. What matters most comes first, as in `_by_weight`.

    Scales above it that did not end well are named, so that a curve's end is not taken for the study's.
    """
    over, by_slug = unit(rows), {row["slug"]: row for row in rows}
    causes = {(one.curve, one.label): _cause(one, rows) for one in lost}
    doubts = {curve.name: _doubts([by_slug[slug] for slug in curve.largest.slugs]) for curve in curves}
    sentences = []
    for curve in _by_weight(curves, by_slug, doubts):
        if len(curve.scales) == 1:
            rate = f"{number(curve.baseline.tokens_per_s.value)} tokens/s on {_count(curve.baseline.gpus, over)}"
            told = f"{curve.name}: {rate}{doubts[curve.name]}; one scale only, so no efficiency."
        else:
            told = _kept(curve, over, doubts[curve.name], causes.get((curve.name, curve.largest.label), ""))
        sentences.append(told + _beyond(curve, rows, over))
    sentences += attained_alone(rows)
    if sentences:
        return sentences
    if not rows or any(row["status"] in OPEN for row in rows):
        return ["No point has a measured result yet."]
    return [f"No point has a measured result: {_counts([_end(row) for row in rows])}."]


def _by_weight(curves: Sequence[Curve], by_slug: Mapping[str, Row], doubts: Mapping[str, str]) -> list[Curve]:
    """Curves of several scales first: of those that grew largest from least the one that keeps most, the one that keeps
    least, then what lies between and the others. Doubted ones and those that can't tell come behind.

    Those of one scale go by tokens/s of a GPU: of each model the fastest and the slowest first.
    """

    def place(curve: Curve) -> tuple[bool, bool, int, int]:
        return bool(doubts[curve.name]), not curve.largest.efficiency.tells, -curve.largest.gpus, curve.baseline.gpus

    def model(curve: Curve) -> str:
        return str(by_slug[curve.largest.slugs[0]]["model"])

    grown = sorted(
        (curve for curve in curves if len(curve.scales) > 1),
        key=lambda curve: (*place(curve), -curve.largest.efficiency.value),
    )
    single = sorted(
        (curve for curve in curves if len(curve.scales) == 1),
        key=lambda curve: (model(curve), -curve.largest.tokens_per_s.value / curve.largest.gpus),
    )
    foremost = [curve for curve in grown if place(curve) == place(grown[0])]
    models = [_ends_first(list(same)) for _, same in groupby(single, model)]
    ends, between = ([curve for same in models for curve in same[part]] for part in (slice(2), slice(2, None)))
    return [*_ends_first(foremost), *grown[len(foremost) :], *ends, *between]


def _ends_first(ranked: list[Curve]) -> list[Curve]:
    return [*ranked[:1], *ranked[1:][-1:], *ranked[1:-1]]


def _doubts(rows: Sequence[Row]) -> str:
    """Why a scale's figures are none of scaling, behind what they are."""
    doubts = ["more ranks than cores"] * any(row["oversubscribed"] for row in rows)
    doubts += ["faults on purpose"] * any(row["faults"] for row in rows)
    return f"; with {' and '.join(doubts)}, not a scaling measurement" * bool(doubts)


def attained_alone(rows: Sequence[Row]) -> list[str]:
    """One sentence for each benchmark of collectives that ended well: each operation's largest bus bandwidth."""
    sentences = []
    for row, name in zip(rows, names(rows), strict=True):
        peaks = {op: row[f"{op}_peak_busbw"] for op in OPERATIONS}
        told = [f"{op} {number(peak / 1e9, 3)}" for op, peak in peaks.items() if peak is not None]
        if row["status"] == "ok" and told:
            doubted = "; with more ranks than cores, not a measurement of links" * bool(row["oversubscribed"])
            sentences.append(f"{name}: alone, {', '.join(told)} GB/s busbw at most{doubted}.")
    return sentences


def differences(found: Sequence[Difference], over: str) -> list[str]:
    """One sentence for each field in which `ok` points differ, with its values and what came of it.

    over: what points scale over, as `unit` says.
    """
    untold = [each for each in found if _untold(each)]
    if len(untold) < 2:
        return [_difference(each, over) for each in found]
    return [_difference(each, over) for each in found if each not in untold] + [_all_untold(untold)]


def _all_untold(found: Sequence[Difference]) -> str:
    """One sentence on what a damaged or older record leaves open, however much it is."""
    known = [f"{each.title} ({next(v.value for v in each.groups if v.value != text(None))})" for each in found]
    guessed = " Where others on their curve do, it is taken to be that." * any(each.unknown for each in found)
    return f"Some ok points do not tell what others do: {', '.join(known)}.{guessed} Compare them with care."


def _untold(found: Difference) -> bool:
    """Whether points differ in nothing but that some do not tell."""
    values = {same.value for same in found.groups}
    return found.outcome == "said" and len(values) == 2 and text(None) in values


def _difference(found: Difference, over: str) -> str:
    guessed = " Where it is unknown beside one known value, it is taken to be that." * found.unknown
    if found.outcome == "said":
        on: dict[str, list[str]] = {}
        for same in found.groups:
            on.setdefault(same.value, []).append(same.curve)
        several = len({same.curve for same in found.groups}) > 1
        values = "; ".join(value + f" ({_some(named, FEW_NAMED)})" * several for value, named in sorted(on.items()))
        where = "At one scale the" if RECORDED[found.field].one_scale else "The"
        return f"{where} ok points do not have the same {found.title}: {values}. Compare them with care.{guessed}"
    curves: dict[str, list[str]] = {}
    for same in found.groups:
        *smaller, largest = same.gpus
        sizes = f"{', '.join(map(str, smaller))} and " * bool(smaller) + _count(largest, over)
        curves.setdefault(same.curve, []).append(f"{same.value} on {sizes}")
    told = [f"{curve} ({'; '.join(values)})" for curve, values in curves.items()]
    where = _some(told, MOST_NAMED)
    if found.outcome == "joined":
        what = f"Points are joined although they differ in {found.title}, as --join={found.field} asked"
        return f"{what}: {where}.{guessed}"
    return f"Points that differ in {found.title} are not joined: {where}. With --join={found.field} they are.{guessed}"


def _some(told: Sequence[str], most: int) -> str:
    return ", ".join(told[:most]) + f" and {len(told) - most} more" * (len(told) > most)


def ran(rows: Sequence[Row]) -> list[str]:
    """What the points did, a phrase a fact; where they differ, all that there is of it.

    Parameters stand beside the model's name, for a model whose sizes were changed keeps its name.
    """
    one = unit(rows)[:-1]
    trained = [row for row in rows if row["model"] is not None]

    def batch(row: Row) -> str:
        if row["scaling"] == "strong":
            return f"{_many(row['global_batch'], 'sequence')} a step, {row['local_batch']} at once a {one}"
        return f"{_many(row['local_batch'], 'sequence')} a {one} and step"

    facts: list[Callable[[Row], str]] = [
        lambda row: f"{row['model']} ({row['parameters']:,} parameters)",
        lambda row: _many(row["seq_len"], "token") + " a sequence",
        batch,
        lambda row: str(row["precision"]),
        lambda row: "compiled" if row["compile"] else "not compiled",
        lambda row: f"{_CHECKPOINTING[row['activation_checkpointing']]} activation checkpointing",
        lambda row: f"{row['data']} data",
        lambda row: _many(row["steps"], "step"),
    ]
    phrases = [" or ".join(dict.fromkeys(fact(row) for row in trained)) for fact in facts]
    alone = dict.fromkeys("all operations" if row["op"] == "all" else str(row["op"]) for row in rows if row["op"])
    return [phrase for phrase in phrases if phrase] + [f"collectives alone: {', '.join(alone)}"] * bool(alone)


def tally(rows: Sequence[Row]) -> str:
    """How the points stand: `6 points: 4 ok, 1 oom, 1 failed`."""
    parts = _counts([str(row["status"]) for row in rows])
    return f"{len(rows)} point{'s' * (len(rows) != 1)}" + f": {parts}" * bool(parts)


def _counts(statuses: Sequence[str]) -> str:
    order = sorted(set(statuses), key=lambda status: (status != "ok", status))
    return ", ".join(f"{statuses.count(status)} {status}" for status in order)


def _end(row: Row) -> str:
    """How a point that has no figures ended."""
    return "ok without figures in the records" if row["status"] == "ok" else str(row["status"])


def standing_out(outliers: Sequence[Outlier]) -> list[str]:
    """One sentence for each point that is off the other repeats of its scale."""
    return [
        f"{one.label} r{one.repeat} is {percent(abs(one.deviation))} {'faster' if one.deviation > 0 else 'slower'} "
        f"than the mean of its scale's other repeats; by chance alone a point is in {percent(one.p)} of studies."
        for one in outliers
    ]


def drifting(drift: Drift | None) -> list[str]:
    """A sentence where points ran clearly faster or slower the later they ran."""
    if drift is None or not drift.matters:
        return []
    change = drift.change
    low, high = sorted(abs(bound - 1) for bound in (change.lo or 0.0, change.hi or 0.0))
    return [
        f"Repeats ran {'faster' if change.value > 1 else 'slower'} the later they ran: by "
        f"{percent(abs(change.value - 1))} [{100 * low:.1f}, {100 * high:.1f}] of their tokens/s from position "
        f"{drift.first} to {drift.last}. Rounds keep that out of the comparison of what one command ran."
    ]


def _cause(lost: Breakdown, rows: Sequence[Row]) -> str:
    """What most is lost to, where its interval supports it: `; 1.6 points are waiting on rank 3 of n07`.

    It is never more than was lost: what is more stands there with what made up for it, or as what it is at least.
    """
    told = {part.name: part.lost_efficiency for part in lost.causes if part.lost_efficiency}
    repeats = [row for row in rows if row["slug"] in lost.slugs]
    if not told or any(row["oversubscribed"] for row in repeats):
        return ""
    [(name, worst), *made_up] = told.items()
    what = LOST_TO[name]
    named = {(row["straggler_rank"], row["straggler_host"]) for row in repeats}
    if name == "wait" and len(named) == 1 and (one := named.pop())[0] is not None:
        what = f"waiting on rank {one[0]}" + f" of {one[1]}" * bool(one[1])
    if made_up:
        less = (f"{-100 * part.value:.1f} fewer {LOST_TO[name].removeprefix('slower ')}" for name, part in made_up)
        return f"; {100 * worst.value:.1f} points more are {what}, {' and '.join(less)}"
    if worst.lo is not None and worst.value > lost.gap_s / lost.step_s + NAMED:
        return f"; at least {100 * worst.lo:.1f} points are {what}"
    return f"; {100 * worst.value:.1f} points are {what}"


def _kept(curve: Curve, over: str, doubts: str, cause: str) -> str:
    efficiency = curve.largest.efficiency
    what = "tokens/s" if curve.scaling == "weak" else "speed"
    of = f"of its {what} per {over[:-1]} from {curve.baseline.gpus} to {_count(curve.largest.gpus, over)}"
    of += ", at a fixed global batch" * (curve.scaling == "strong")
    if not efficiency.tells:
        runs = min(len(curve.baseline.slugs), len(curve.largest.slugs))
        few = f"{runs} runs a scale" if runs > 1 else "single runs"
        return f"{curve.name}: {few} can't tell what it keeps {of}{doubts}."
    sentence = f"{curve.name} keeps {percent(efficiency.value)}{_within(efficiency)} {of}"
    if efficiency.hi is not None and efficiency.hi < 1:  # else nobody knows whether anything was lost
        sentence += cause
    # Caches or a disturbed baseline: either way not what the strategy gains.
    beyond = "; more than ideal, so doubt the baseline" * (efficiency.value > BEYOND_IDEAL)
    return f"{sentence}{doubts or beyond}."


def _within(interval: Interval) -> str:
    """Its bounds; those of single runs as such, for other runs would differ by more."""
    if interval.kind == "within-run":
        return f" ({span(interval)} within one run)"
    return f" {span(interval)}"


def _beyond(curve: Curve, rows: Sequence[Row], over: str) -> str:
    ends: dict[int, dict[str, None]] = {}
    for row in rows:
        if row["curve"] == curve.name and row["gpus"] > curve.largest.gpus:
            ends.setdefault(row["gpus"], {})[_end(row)] = None
    told = "; ".join(f"{_count(gpus, over)}: {', '.join(statuses)}" for gpus, statuses in sorted(ends.items()))
    return f" At {told}." if told else ""


def _many(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _count(gpus: int, over: str) -> str:
    return f"{gpus} {over if gpus != 1 else over[:-1]}"
