"""Two studies side by side: which of their scales did the same work, and how fast the new is against the old."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from harness.analysis.efficiency import Curve, Scale, curves
from harness.analysis.fingerprint import RECORDED, Fingerprint, Value, is_name, is_work, text, title
from harness.analysis.intervals import Interval, ratio
from harness.analysis.points import Gathered

MADE_ALIKE = ("parallel", "nccl.env", "scaling")
"""What two scales must have been asked for alike to be compared, beside nodes and GPUs; names are no part of it."""


@dataclass(frozen=True)
class Change:
    """A field that is not alike, as a person reads its values."""

    field: str
    title: str
    old: str
    new: str


@dataclass(frozen=True)
class Side:
    """One study's part in a pair; `baseline` is the label of its curve's smallest scale."""

    label: str
    curve: str
    baseline: str
    repeats: int
    tokens_per_s_gpu: Interval
    efficiency: Interval


@dataclass(frozen=True)
class Pair:
    """Two scales of as many nodes and GPUs, the same strategy and NCCL variables; ratios are new ÷ old.

    No ratio where the work differs: `refused` names the fields. No ratio of efficiencies at a baseline, or where the
    baselines are of other scales. `changed` is what else is not alike.
    """

    nodes: int
    gpus: int
    old: Side
    new: Side
    tokens_per_s_gpu: Interval | None
    efficiency: Interval | None
    refused: list[Change]
    changed: list[Change]


@dataclass(frozen=True)
class Unpaired:
    """A scale that has no partner, or a point that is not `ok`, and why."""

    study: str
    label: str
    reason: str


@dataclass(frozen=True)
class Placed:
    """A scale on its curve, with the fingerprint that its repeats have together."""

    curve: Curve
    scale: Scale
    print: Fingerprint

    @property
    def key(self) -> tuple[object, ...]:
        asked = [value for name, value in self.print.items() if name.startswith(MADE_ALIKE) and not is_name(name)]
        return (self.scale.nodes, self.scale.gpus, *asked)


def pair(old: Gathered, new: Gathered) -> tuple[list[Pair], list[Placed], list[Placed]]:
    """The pairs, smallest scale first, and what of the old and of the new study has no partner.

    Of several that fit, those are paired that differ in the fewest fields of their work, then in the fewest of all.
    """
    before, after = _placed(old), _placed(new)
    by_key: dict[tuple[object, ...], tuple[list[Placed], list[Placed]]] = defaultdict(lambda: ([], []))
    for side, found in enumerate((before, after)):
        for one in found:
            by_key[one.key][side].append(one)
    pairs: list[Pair] = []
    taken: set[int] = set()
    for olds, news in by_key.values():
        fits = [(_cost(a.print, b.print), a.scale.label, b.scale.label, a, b) for a, b in product(olds, news)]
        for *_, a, b in sorted(fits, key=lambda fit: fit[:3]):
            if taken.isdisjoint((id(a), id(b))):
                taken |= {id(a), id(b)}
                pairs.append(_pair(a, b))
    pairs.sort(key=lambda made: (made.old.curve, made.gpus, made.nodes, made.new.curve))
    return pairs, [one for one in before if id(one) not in taken], [one for one in after if id(one) not in taken]


def changes(old: Fingerprint, new: Fingerprint) -> list[Change]:
    """Every field that is not alike, work first; one that is known on one side alone is said, too."""
    names = [name for name in {**old, **new} if not is_name(name) and old.get(name) != new.get(name)]
    return [
        Change(name, title(name), text(old.get(name)), text(new.get(name)))
        for name in sorted(names, key=lambda name: not is_work(name))
    ]


def together(prints: Iterable[Fingerprint]) -> Fingerprint:
    """What several points have in each field: their one known value, or all of them as one text."""
    found: dict[str, set[Value]] = defaultdict(set)
    for print in prints:
        for name, value in print.items():
            found[name].add(value)
    return {name: _one(values) for name, values in found.items()}


def changed(old: Gathered, new: Gathered, pairs: Sequence[Pair]) -> list[Change]:
    """What is not alike in the pairs; without any, what the `ok` points of the two studies recorded otherwise."""
    if pairs:
        return list(dict.fromkeys(change for made in pairs for change in (*made.refused, *made.changed)))
    if not (_ok(old) and _ok(new)):  # of points that did not end well nothing is compared
        return []
    whole = changes(*(together(study.prints[slug] for slug in _ok(study)) for study in (old, new)))
    return [change for change in whole if change.field in RECORDED and not RECORDED[change.field].one_scale]


def _one(values: set[Value]) -> Value:
    known = values - {None}
    if len(known) < 2:
        return next(iter(known), None)
    return ", ".join(sorted(map(text, known)))


def _ok(study: Gathered) -> list[str]:
    return [row["slug"] for row in study.frame.to_dicts() if row["status"] == "ok"]


def _placed(study: Gathered) -> list[Placed]:
    return [
        Placed(curve, scale, together(study.prints[slug] for slug in scale.slugs))
        for curve in curves(study.frame.to_dicts())
        for scale in curve.scales
    ]


def _refused(old: Fingerprint, new: Fingerprint) -> list[Change]:
    """The work in which two points are known to differ."""
    both = {name for name in old if old[name] is not None and new.get(name) is not None}
    return [change for change in changes(old, new) if change.field in both and is_work(change.field)]


def _cost(old: Fingerprint, new: Fingerprint) -> tuple[int, int]:
    return len(_refused(old, new)), len(changes(old, new))


def _pair(old: Placed, new: Placed) -> Pair:
    refused = _refused(old.print, new.print)
    bases = [(one.curve.baseline.nodes, one.curve.baseline.gpus) for one in (old, new)]
    scaled = bases[0] == bases[1] != (old.scale.nodes, old.scale.gpus)
    return Pair(
        nodes=old.scale.nodes,
        gpus=old.scale.gpus,
        old=_side(old),
        new=_side(new),
        tokens_per_s_gpu=None if refused else ratio(new.scale.tokens_per_s, old.scale.tokens_per_s),
        efficiency=ratio(new.scale.efficiency, old.scale.efficiency) if scaled and not refused else None,
        refused=refused,
        changed=[change for change in changes(old.print, new.print) if change not in refused],
    )


def _side(one: Placed) -> Side:
    rate, gpus = one.scale.tokens_per_s, one.scale.gpus
    lo, hi = (None if bound is None else bound / gpus for bound in (rate.lo, rate.hi))
    return Side(
        label=one.scale.label,
        curve=one.curve.name,
        baseline=one.curve.baseline.label,
        repeats=len(one.scale.slugs),
        tokens_per_s_gpu=Interval(rate.value / gpus, lo, hi, rate.kind, rate.freedom),
        efficiency=one.scale.efficiency,
    )
