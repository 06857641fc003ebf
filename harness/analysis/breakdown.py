"""Where the loss comes from: what a scale's step takes longer than the baseline's ideal, part by part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis.efficiency import Curve, Scale
from harness.analysis.intervals import Interval, difference
from harness.analysis.parts import PARTS
from harness.analysis.summary import Row

UNEXPLAINED = "unexplained"
NAMED = 0.0005
"""Of a step: what is less than half a tenth of a point is not told."""


@dataclass(frozen=True)
class Part:
    """One part of a step, in seconds: `own_s` at this scale and how much of that is `lost_s`, beyond the baseline's.

    `lost_efficiency` is the latter as a share of the step: 0.016 are 1.6 points. All are null where this scale or the
    baseline does not know the part.
    """

    name: str
    own_s: float | None
    lost_s: Interval | None
    lost_efficiency: Interval | None


@dataclass(frozen=True)
class Breakdown:
    """Of one scale of a curve: the ideal's seconds of a step and the gap to it, which the parts sum to.

    `step_s` is the harmonic mean over repeats, since rates have arithmetic ones: `gap_s` ÷ `step_s` is exactly what is
    missing of the efficiency. `unknown` parts are among the last one, `unexplained`.
    """

    curve: str
    scaling: str
    label: str
    baseline: str
    nodes: int
    gpus: int
    slugs: list[str]
    step_s: float
    ideal_s: float
    gap_s: float
    parts: list[Part]
    unknown: list[str]

    @property
    def tells(self) -> bool:
        """Whether sampled steps of this scale and of the baseline tell of it."""
        return "compute" not in self.unknown

    @property
    def causes(self) -> list[Part]:
        """The known part that most is lost to; where that is more than the gap, those behind it that make up for it.

        Only what an interval tells is there. Without what makes up for it a part that may be larger than the gap stands
        alone; one that is larger has no cause to name, nor has a gap that is none.
        """
        known = [(part, part.lost_s) for part in self.parts if part.lost_s is not None and part.name != UNEXPLAINED]
        if not known or self.gap_s <= 0:
            return []
        [(worst, lost), *others] = sorted(known, key=lambda one: -one[1].value)
        if lost.value < NAMED * self.step_s or not lost.excludes(0):
            return []
        excess, made_up = lost.value - self.gap_s - NAMED * self.step_s, []
        for part, less in reversed(others):
            if excess <= 0 or less.value > 0 or not less.excludes(0):
                break
            made_up.append(part)
            excess += less.value
        if excess <= 0:
            return [worst, *made_up]
        return [worst] if lost.lo is not None and lost.lo <= self.gap_s else []


def breakdowns(rows: Sequence[Row], curves: Sequence[Curve]) -> list[Breakdown]:
    """One for each curve and scale, the baseline's own without any loss."""
    by_slug = {row["slug"]: row for row in rows}
    return [_breakdown(curve, scale, by_slug) for curve in curves for scale in curve.scales]


def _breakdown(curve: Curve, scale: Scale, by_slug: Mapping[str, Row]) -> Breakdown:
    """The baseline's parts count times ideal ÷ baseline's step: 1 with weak scaling, N₀ ÷ N with strong."""
    repeats, base = ([by_slug[slug] for slug in found.slugs] for found in (scale, curve.baseline))
    step = _step(repeats)
    ideal = step * scale.efficiency.value
    factor = ideal / _step(base)
    is_baseline = scale is curve.baseline
    known = [name for name in PARTS if _known(repeats, [name]) and _known(base, [name])]

    def lost(ours: list[float], theirs: list[float]) -> Interval:
        return Interval(0.0) if is_baseline else difference(ours, theirs, factor)

    parts = []
    for name in PARTS:
        if name not in known:
            parts.append(Part(name, None, None, None))
            continue
        ours, theirs = ([_seconds(row, name) for row in _known(side, [name])] for side in (repeats, base))
        parts.append(_part(name, sum(ours) / len(ours), lost(ours, theirs), step))
    explained = sum(part.lost_s.value for part in parts if part.lost_s)
    gap = step - ideal
    rest = Interval(gap - explained)
    ours, theirs = ([_rest(row, known) for row in _known(side, known)] for side in (repeats, base))
    if ours and theirs and (spread := lost(ours, theirs)).lo is not None and spread.hi is not None:
        half = (spread.hi - spread.lo) / 2
        rest = replace(spread, value=rest.value, lo=rest.value - half, hi=rest.value + half)
    own = step - sum(part.own_s for part in parts if part.own_s is not None)
    return Breakdown(
        curve=curve.name,
        scaling=curve.scaling,
        label=scale.label,
        baseline=curve.baseline.label,
        nodes=scale.nodes,
        gpus=scale.gpus,
        slugs=scale.slugs,
        step_s=step,
        ideal_s=ideal,
        gap_s=gap,
        parts=[*parts, _part(UNEXPLAINED, own, rest, step)],
        unknown=[name for name in PARTS if name not in known],
    )


def _part(name: str, own: float, lost: Interval, step: float) -> Part:
    """The step's own spread is left out of `lost_efficiency`: it changes it by a share of a share."""
    bounds = [None if bound is None else bound / step for bound in (lost.lo, lost.hi)]
    return Part(name, own, lost, replace(lost, value=lost.value / step, lo=bounds[0], hi=bounds[1]))


def _step(repeats: Sequence[Row]) -> float:
    return len(repeats) / sum(1 / row["step_s_mean"] for row in repeats)


def _known(repeats: Sequence[Row], names: Sequence[str]) -> list[Row]:
    return [row for row in repeats if all(row[f"part_{name}_s"] is not None for name in names)]


def _seconds(row: Row, name: str) -> float:
    return float(row[f"part_{name}_s"])


def _rest(row: Row, known: Sequence[str]) -> float:
    return float(row["step_s_mean"]) - sum(_seconds(row, name) for name in known)
