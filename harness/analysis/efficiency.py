"""Scaling efficiency: which points are one curve, and what each scale keeps of the curve's baseline."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.comparability import Candidate, Difference, gate, unasked
from harness.analysis.fingerprint import RECORDED, Fingerprint, text
from harness.analysis.goodput import goodput_efficiency
from harness.analysis.intervals import Interval, over_repeats, ratio, step_freedom
from harness.analysis.summary import Row
from harness.config import Config
from harness.plan.workload import times_collectives, titles


@dataclass(frozen=True)
class Scale:
    """A curve's points of one size: tokens/s and efficiency, means over repeats."""

    label: str
    nodes: int
    gpus: int
    slugs: list[str]
    tokens_per_s: Interval
    efficiency: Interval


@dataclass(frozen=True)
class Curve:
    """Points that differ in scale and repeat alone, smallest first; the first scale is the baseline.

    `joined_over` are the fields in which they differ as well, because a person asked to join them.
    """

    name: str
    scaling: str
    scales: list[Scale]
    joined_over: list[str]

    @property
    def baseline(self) -> Scale:
        return self.scales[0]

    @property
    def largest(self) -> Scale:
        return self.scales[-1]


def named(config: Config) -> tuple[str, str]:
    """What a point goes by before anything tells it from others: `tiny-ddp`, and NCCL's preset, `-ring` or nothing,
    with a fault on purpose.

    Only points that have both in common can be on one curve, or make each other's names longer.
    """
    preset = f"-{config.nccl.name}" * (config.nccl.name != "default")
    return "-".join(titles(config)), preset + f" faults={config.faults.kind}" * (config.faults.kind != "none")


def name_rows(
    rows: Sequence[Row], configs: Sequence[Config], prints: Sequence[Fingerprint], join: Sequence[str] = ()
) -> list[Difference]:
    """Give each row its `label`, such as `tiny-ddp-n1x1`, and the name of its `curve`, such as `tiny-ddp`.

    Names say model and strategy, a fault on purpose, and beyond them only what tells this study's curves apart: first
    what was asked for, then in what points are not comparable, but for the fields over which to `join` them. These are
    in `joined_over` and part of the curve's name. Returned is in what `ok` points differ beyond what was asked for.
    """
    stems = [stem for stem, _ in map(named, configs)]
    extras = [extra for _, extra in map(named, configs)]
    # By the way of scaling first: what differs between a weak and a strong curve does not tell either from its like.
    scalings = [{"scaling": None if times_collectives(config) else config.scaling} for config in configs]
    no_part = RECORDED.keys() | unasked(join)
    work = [{key: value for key, value in found.items() if key not in no_part} for found in prints]
    for details in (scalings, work):
        for index, words in _differences({index: (stems[index], extras[index]) for index in range(len(rows))}, details):
            extras[index] += words
    # of one whose records are lost nothing is compared: what it was started from is not yet what it was
    told = [row["status"] == "ok" and row["backend"] is not None for row in rows]
    points = [
        Candidate(stem + extra, row["nodes"], row["gpus"], ok, found)
        for stem, extra, row, ok, found in zip(stems, extras, rows, told, prints, strict=True)
    ]
    differences = gate(points, join)
    for row, config, stem, point in zip(rows, configs, stems, points, strict=True):
        row["label"] = f"{stem}-n{config.nodes}x{config.gpus_per_node}{point.curve.removeprefix(stem)}"
        row["curve"] = point.curve
        if point.joined:
            _mark(row, point)
    return differences


def _mark(row: Row, point: Candidate) -> None:
    """Show of a row that its curve is one only because a person asked."""
    titles = ", ".join(RECORDED[name].title for name in point.joined)
    own = ", ".join(f"{RECORDED[name].title} {text(point.print[name])}" for name in point.joined)
    row["joined_over"] = ", ".join(point.joined)
    row["curve"] = f"{point.curve} (joined over {titles})"
    remark = f"joined with points that differ from its {own}"
    row["warnings"] = "; ".join(filter(None, (row["warnings"], remark)))


def curves(rows: Iterable[Row]) -> list[Curve]:
    """The curves of named rows, in the order of their names; only `ok` rows with a measured window have a part."""
    members: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: (row["gpus"], row["nodes"], row["repeat"])):
        if row["status"] == "ok" and row.get("tokens_per_s"):
            members[row["curve"]][row["label"]].append(row)
    return [_curve(name, list(members[name].values())) for name in sorted(members)]


def fill_rows(rows: Sequence[Row]) -> None:
    """Add efficiency, baseline and goodput efficiency to the rows of each curve."""
    by_slug = {row["slug"]: row for row in rows}
    for curve in curves(rows):
        base = _speed_of([by_slug[slug] for slug in curve.baseline.slugs])
        peak = curve.baseline.tokens_per_s.value if curve.baseline.gpus == 1 else None
        for scale in curve.scales:
            for row in (by_slug[slug] for slug in scale.slugs):
                efficiency = _ratio(_speed_of([row]), base, scale is curve.baseline)
                row["baseline"] = curve.baseline.label
                row["efficiency"] = efficiency.value
                row["efficiency_lo"], row["efficiency_hi"] = efficiency.lo, efficiency.hi
                if peak and row.get("goodput_tokens_per_s") is not None:
                    row["goodput_efficiency"] = goodput_efficiency(row["goodput_tokens_per_s"], row["gpus"], peak)
                    row["goodput_peak"] = curve.baseline.label


def _curve(name: str, scales: list[list[Row]]) -> Curve:
    base = _speed_of(scales[0])
    return Curve(
        name,
        scales[0][0]["scaling"],
        [
            Scale(
                label=repeats[0]["label"],
                nodes=repeats[0]["nodes"],
                gpus=repeats[0]["gpus"],
                slugs=[row["slug"] for row in repeats],
                tokens_per_s=_estimate([(row, row["tokens_per_s"]) for row in repeats]),
                efficiency=_ratio(_speed_of(repeats), base, repeats is scales[0]),
            )
            for repeats in scales
        ],
        list(filter(None, (scales[0][0].get("joined_over") or "").split(", "))),
    )


def _speed_of(repeats: list[Row]) -> Interval:
    """The speed of one GPU, whose ratio to the baseline's is the efficiency.

    Weak scaling: tokens/s/GPU. Strong scaling: 1 ÷ (T·N), so that the ratio is T_N₀·N₀ ÷ (T_N·N).
    """
    if repeats[0]["scaling"] == "strong":
        return _estimate([(row, 1 / (row["step_s_mean"] * row["gpus"])) for row in repeats])
    return _estimate([(row, row["tokens_per_s"] / row["gpus"]) for row in repeats])


def _estimate(values: list[tuple[Row, float]]) -> Interval:
    """Mean and t-interval over repeats; of a single run, its value with the relative interval of its tokens/s."""
    if len(values) > 1:
        return over_repeats([value for _, value in values])
    [(row, value)] = values
    if row.get("tokens_per_s_lo") is None:
        return Interval(value)
    scale = value / row["tokens_per_s"]
    lo, hi = row["tokens_per_s_lo"] * scale, row["tokens_per_s_hi"] * scale
    return Interval(value, lo, hi, row["interval"], step_freedom(row["window_steps"]))


def _ratio(part: Interval, base: Interval, is_baseline: bool) -> Interval:
    """A speed over the baseline's. The baseline itself has no interval."""
    return Interval(part.value / base.value) if is_baseline else ratio(part, base)


def _differences(names: dict[int, tuple[str, str]], details: Sequence[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """What tells each index from others of the same name: ` bf16 seq_len=4096`, or nothing."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, name in names.items():
        groups[name].append(index)
    for group in groups.values():
        one = details[group[0]]
        keys = [key for key in one if any(details[index][key] != one[key] for index in group)]
        named = {key.removesuffix(".name") for key in keys if key.endswith(".name")}
        for index in group:
            parts = [
                str(details[index][key]) if key.endswith(".name") else f"{key}={details[index][key]}"
                for key in keys
                if key.endswith(".name") or key.split(".")[0] not in named
            ]
            yield index, "".join(f" {part}" for part in parts)
