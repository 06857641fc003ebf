"""Which points may be joined into one curve: those that did the same work in the same surroundings."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.analysis.fingerprint import APART, RECORDED, Fingerprint, Value, text
from harness.fields import nearest

LONGEST = 40
"""Characters of a value that a curve's name has room for."""


@dataclass
class Candidate:
    """A point before the gate: the curve that it is on by its configuration, and what tells whether it may stay there.

    joined: the fields over which its curve is joined.
    """

    curve: str
    nodes: int
    gpus: int
    ok: bool
    print: Fingerprint
    joined: list[str] = field(default_factory=list)


Curves = dict[str, list[Candidate]]


@dataclass(frozen=True)
class Same:
    """A curve's `ok` points that have one value of a field, by the numbers of GPUs that they ran on."""

    curve: str
    value: str
    gpus: list[int]


@dataclass(frozen=True)
class Difference:
    """A field in which `ok` points differ, and what came of it.

    outcome: `apart` (they are different curves), `joined` (one curve, because a person asked), `said` (no more than
    that). unknown: whether on some curve a value that is not known was taken to be the one that is.
    """

    field: str
    title: str
    outcome: str
    unknown: bool
    groups: list[Same]


def check_join(join: Sequence[str]) -> None:
    """Raise ValueError for a field that never keeps points apart."""
    for name in join:
        if name not in APART:
            hint = nearest(name, list(APART))
            raise ValueError(f"--join={name}: no field that keeps points apart{hint}; those are {', '.join(APART)}")


def check_joined(study: str, join: Sequence[str], found: Iterable[Difference]) -> None:
    """Raise ValueError for a field in which no `ok` points of a curve differ: who asks is mistaken."""
    outcomes = {each.field: each.outcome for each in found}
    for name in join:
        if outcomes.get(name) != "joined":
            apart = [field for field, outcome in outcomes.items() if outcome == "apart"]
            others = f"; what does: {', '.join(apart)}" if apart else ", and no other field does"
            raise ValueError(f"--join={name}: keeps no ok points of {study} apart{others}")


def unasked(join: Sequence[str]) -> set[str]:
    """The configuration's keys that make no other curve where points are joined over some fields."""
    return {key for name in join for key in RECORDED[name].keys}


def gate(points: Sequence[Candidate], join: Sequence[str] = ()) -> list[Difference]:
    """Give points that are not comparable curves of their own, named after what tells them apart; all differences.

    Only `ok` points decide, by value. A value that is not known goes with the one that is known on its curve; where
    several are, nobody can say with which, and it has a curve of its own. A point that is not `ok` goes to the only one
    that it can be on.
    """
    found: dict[str, Curves] = defaultdict(dict)
    for curve, everyone in _curves(points).items():
        ok = [point for point in everyone if point.ok]
        split = [name for name in APART if name not in join and len(_known(name, ok)) > 1]
        for name in split:
            found[name][curve] = ok
        for point in ok:
            point.curve += "".join(_named(name, point.print[name]) for name in split)
        for point in everyone:
            fitting = set() if point.ok else {one.curve for one in ok if _fits(point, one, split)}
            if len(fitting) == 1:
                [point.curve] = fitting
    curves = _curves(points)
    for curve, everyone in curves.items():
        ok = [point for point in everyone if point.ok]
        for name in join:
            if len(_known(name, ok)) > 1 or _varied(name, ok):
                found[name][curve] = ok
                for point in everyone:
                    point.joined.append(name)
    ended = {curve: [point for point in everyone if point.ok] for curve, everyone in curves.items()}
    differences = []
    for name in RECORDED:
        outcome = "said" if name not in found else "joined" if name in join else "apart"
        if among := found.get(name) or _said(name, ended):
            guessed = not RECORDED[name].one_scale and any(_half_known(name, ok) for ok in ended.values())
            differences.append(_difference(name, outcome, among, guessed))
    return differences


def _curves(points: Iterable[Candidate]) -> Curves:
    found: Curves = defaultdict(list)
    for point in points:
        found[point.curve].append(point)
    return found


def _known(name: str, points: Iterable[Candidate]) -> set[Value]:
    return {point.print[name] for point in points} - {None}


def _half_known(name: str, points: Iterable[Candidate]) -> bool:
    """Whether there is one known value, and points of which it is not known."""
    values = {point.print[name] for point in points}
    return None in values and len(values) == 2


def _varied(name: str, points: Iterable[Candidate]) -> list[str]:
    """The configuration's keys for a field that points do not have alike."""
    return [key for key in RECORDED[name].keys if len({point.print[key] for point in points}) > 1]


def _fits(point: Candidate, other: Candidate, split: Iterable[str]) -> bool:
    """Whether a point, as far as it is known, is what another one is."""
    return all(point.print[name] in (None, other.print[name]) for name in split)


def _named(name: str, value: Value) -> str:
    shown = text(value)
    if len(shown) > LONGEST:
        shown = hashlib.sha256(shown.encode()).hexdigest()[:8]
    return f" {RECORDED[name].title} {shown}"


def _said(name: str, curves: Curves) -> Curves:
    """The points of which to say that a field differs although they are not kept apart.

    Between curves other work is on purpose. What follows from scale is compared between the points of one scale.
    """
    if RECORDED[name].one_scale:
        curves = {curve: _unlike_at_a_scale(name, points) for curve, points in curves.items()}
    elif RECORDED[name].work:
        curves = {curve: points for curve, points in curves.items() if _half_known(name, points)}
    values = {point.print[name] for points in curves.values() for point in points}
    return curves if len(values) > 1 else {}


def _unlike_at_a_scale(name: str, points: Iterable[Candidate]) -> list[Candidate]:
    at: dict[tuple[int, int], list[Candidate]] = defaultdict(list)
    for point in points:
        at[point.nodes, point.gpus].append(point)
    return [point for same in at.values() if len(_known(name, same)) > 1 for point in same]


def _difference(name: str, outcome: str, curves: Curves, unknown: bool) -> Difference:
    groups = []
    for curve, points in sorted(curves.items()):
        keys = _varied(name, points) if outcome == "joined" else []
        sizes: dict[str, set[int]] = defaultdict(set)
        for point in points:
            asked = ", ".join(f"{key}={point.print[key]}" for key in keys)
            sizes[text(point.print[name]) + f" ({asked})" * bool(asked)].add(point.gpus)
        groups += [Same(curve, value, sorted(gpus)) for value, gpus in sorted(sizes.items())]
    return Difference(name, RECORDED[name].title, outcome, unknown, groups)
