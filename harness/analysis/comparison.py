"""Strategies and NCCL settings compared, scale by scale: how much faster one is, and whether that may be chance."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from harness.analysis.efficiency import Curve, Scale
from harness.analysis.fingerprint import APART, RECORDED, Fingerprint
from harness.analysis.intervals import LEVEL, Interval, around, difference, ratio, significance, student
from harness.analysis.summary import Row

PLAIN = "default"
"""The NCCL setting that the others of a strategy are compared with, where a study has it."""

# Two points that differ in one of these as well do not tell what strategy or NCCL setting did.
SAME = (
    "workload",
    "model",
    "parameters",
    "precision",
    "scaling",
    "data",
    "seq_len",
    "tokens_per_step",
    "compile",
    "activation_checkpointing",
    "backend",
    "device_name",
    "faults",
)


@dataclass(frozen=True)
class Comparison:
    """At one scale, the tokens/s of `curve` over those of `other`; the two differ in `differs`, `parallel` or `nccl`.

    paired: by repeat, which ran in the same round. p: of a t-test that the ratio is 1, as it stands and after Holm
    over all comparisons of the study; null with a single run on a side, and with it `significant`. unlike: what else
    the two are known not to have alike, of that which keeps points of one curve apart and is not their work.
    """

    differs: str
    curve: str
    other: str
    label: str
    other_label: str
    nodes: int
    gpus: int
    repeats: list[int]
    paired: bool
    ratio: Interval
    p: float | None
    p_holm: float | None = None
    significant: bool | None = None
    unlike: list[str] = field(default_factory=list)


def comparisons(rows: Sequence[Row], curves: Sequence[Curve], prints: Mapping[str, Fingerprint]) -> list[Comparison]:
    """Of each two curves at each scale that both have, where the work is the same and one thing differs.

    prints: the points' fingerprints by slug.
    """
    by_slug = {row["slug"]: row for row in rows}
    plain = any(row["nccl"] == PLAIN for row in rows)
    pairs = combinations(curves, 2)
    return _holm([found for ours, theirs in pairs for found in _compared(ours, theirs, by_slug, plain, prints)])


def _compared(
    curve: Curve, other: Curve, by_slug: Mapping[str, Row], plain: bool, prints: Mapping[str, Fingerprint]
) -> Iterator[Comparison]:
    theirs = {(scale.nodes, scale.gpus): scale for scale in other.scales}
    for scale in curve.scales:
        if match := theirs.get((scale.nodes, scale.gpus)):
            ours, others = ([by_slug[slug] for slug in found.slugs] for found in (scale, match))
            if differs := _differs(ours[0], others[0], plain):
                # the plain setting is what the other one is divided by
                if differs == "nccl" and ours[0]["nccl"] == PLAIN:
                    made = _comparison(differs, other, match, others, curve, scale, ours)
                else:
                    made = _comparison(differs, curve, scale, ours, other, match, others)
                yield replace(made, unlike=_unlike(*([prints[slug] for slug in each.slugs] for each in (scale, match))))


def _unlike(ours: Sequence[Fingerprint], theirs: Sequence[Fingerprint]) -> list[str]:
    # types of numbers follow from the strategy
    names = [name for name in APART if not RECORDED[name].work]
    known = {name: [{one[name] for one in side} - {None} for side in (ours, theirs)] for name in names}
    return [RECORDED[name].title for name, (here, there) in known.items() if here and there and here != there]


def _differs(row: Row, other: Row, plain: bool) -> str | None:
    """The one thing in which two points differ, if they are to be compared. plain: whether a study has that setting."""
    if any(row.get(name) != other.get(name) for name in SAME):
        return None
    differing = [name for name in ("parallel", "nccl") if row[name] != other[name]]
    if len(differing) != 1:
        return None
    if differing == ["nccl"] and plain and PLAIN not in (row["nccl"], other["nccl"]):
        return None
    return differing[0]


def _comparison(
    differs: str, curve: Curve, scale: Scale, ours: list[Row], other: Curve, match: Scale, theirs: list[Row]
) -> Comparison:
    ours_log, theirs_log = ({row["repeat"]: math.log(row["tokens_per_s"]) for row in side} for side in (ours, theirs))
    paired = ours_log.keys() == theirs_log.keys() and len(ours_log) > 1
    if paired:
        lead = difference([ours_log[repeat] - theirs_log[repeat] for repeat in ours_log], [0.0] * len(ours_log))
    else:
        lead = difference(list(ours_log.values()), list(theirs_log.values()))
    if lead.freedom is None or lead.hi is None:
        found, p = ratio(scale.tokens_per_s, match.tokens_per_s), None
    else:
        half = lead.hi - lead.value
        found = around(math.exp(lead.value), half, "repeats", lead.freedom)
        p = significance(lead.value, half / student(lead.freedom), lead.freedom)
    return Comparison(
        differs=differs,
        curve=curve.name,
        other=other.name,
        label=scale.label,
        other_label=match.label,
        nodes=scale.nodes,
        gpus=scale.gpus,
        repeats=[len(ours), len(theirs)],
        paired=paired,
        ratio=found,
        p=p,
    )


def _holm(found: list[Comparison]) -> list[Comparison]:
    """With the p that a study of so many comparisons leaves of each (Holm 1979)."""
    tested = sorted(
        (index for index, one in enumerate(found) if one.p is not None), key=lambda index: found[index].p or 0.0
    )
    adjusted = list(found)
    most = 0.0
    for place, index in enumerate(tested):
        most = min(1.0, max(most, (len(tested) - place) * (found[index].p or 0.0)))
        adjusted[index] = replace(found[index], p_holm=most, significant=most < LEVEL)
    return adjusted
