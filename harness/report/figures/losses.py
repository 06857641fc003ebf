"""What each scale lost against its curve's baseline, part by part."""

from collections.abc import Sequence
from html import escape
from typing import Any

from harness.analysis.breakdown import UNEXPLAINED
from harness.analysis.efficiency import Curve
from harness.analysis.intervals import Interval
from harness.analysis.parts import PARTS
from harness.analysis.summary import Row
from harness.report.figures.figure import (
    HOLLOW,
    WITHIN_RUN,
    Cell,
    Dict,
    Figure,
    Numbers,
    axes,
    extent,
    heading,
    panels,
    windows,
)
from harness.report.words import UNSURE, milliseconds, unit

TITLES = {
    "transfer": "exposed transfer",
    "wait": "exposed waiting",
    "bubble": "pipeline bubble",
    "data": "data",
    "compute": "slower compute",
    "other": "between operations",
    UNEXPLAINED: "unexplained",
}


def losses(entries: Sequence[dict[str, Any]], rows: Sequence[Row], measured: Sequence[Curve]) -> Figure:
    """A panel a curve, for baselines differ, and in it a stack a scale; `entries` are breakdowns beyond baselines.

    Hollow is what may as well be no loss: its interval holds zero, or there is none.
    """
    over = unit(rows)
    gaps = {(curve.name, scale.label): _gap_of(scale.efficiency) for curve in measured for scale in curve.scales}
    curves: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        curves.setdefault(entry["curve"], []).append(entry)
    layout = panels(len(curves), above=180)
    columns, lines = layout["grid"]["columns"], layout["grid"]["rows"]
    low, high = _reach(entries)
    layout |= {
        "barmode": "relative",
        "margin": {"l": 64, "r": 24, "t": 110, "b": 56},
        "legend": {"y": 1 + 44 / (260 * lines), "traceorder": "normal"},
    }
    used = [name for name in (*PARTS, UNEXPLAINED) if any(_points(entry, name) for entry in entries)]
    data: list[Dict] = [_legend(TITLES[name], name, _marker(name)) for name in used]
    if not all(_certain(_lost(entry, name)) for entry in entries for name in used):
        data.append(
            _legend(f"{UNSURE} too uncertain to tell", "unsure", {"color": HOLLOW, "line": _outline("var(--text)")})
        )
    for index, (curve, mine) in enumerate(curves.items()):
        panel = str(index + 1) if index else ""
        scales = [_scale(entry, mine) for entry in mine]
        summed = [gaps[curve, entry["label"]] for entry in mine]
        for name in used:
            data.append(
                {
                    "type": "bar",
                    "x": scales,
                    "y": [_points(entry, name) for entry in mine],
                    "name": TITLES[name],
                    "legendgroup": name,
                    "showlegend": False,
                    "marker": _marker(name, [_certain(_lost(entry, name)) for entry in mine]),
                    "customdata": [_words(entry, name) for entry in mine],
                    "hovertemplate": "%{customdata}<extra></extra>",
                    **axes(panel),
                }
            )
        gap: Dict = {"type": "scatter", "mode": "markers", "x": scales, "y": [_gap(entry) for entry in mine]}
        gap |= {"name": "the whole gap", "legendgroup": "gap", "showlegend": not index}
        filling = ["var(--text)" if _certain(each) else HOLLOW for each in summed]
        gap |= {"marker": {"symbol": "diamond", "size": 9, "color": filling, "line": _outline("var(--text)")}}
        gap["customdata"] = [
            f"{_gap(one):.2f}{_bounds(each)} points in all" for one, each in zip(mine, summed, strict=True)
        ]
        gap |= {"hovertemplate": "%{customdata}<extra></extra>"}
        data.append(gap | axes(panel))
        layout[f"xaxis{panel}"] = {"type": "category", "title": {"text": over}}
        layout[f"yaxis{panel}"] = {"range": [low, high], "zeroline": True, "zerolinewidth": 2}
        if index % columns == 0:
            layout[f"yaxis{panel}"]["title"] = {"text": "points of efficiency lost"}
        doubt = f" {UNSURE}" * (not _certain(summed[-1]))
        last = f"<b>{escape(curve)}</b>: {_gap(mine[-1]):.1f} points{doubt} at {mine[-1]['gpus']}"
        of = f"{mine[0]['scaling']}, of {escape(mine[0]['baseline'])}{WITHIN_RUN * (summed[-1].kind == 'within-run')}"
        layout["annotations"].append(heading(panel, f"{last}<br>{of}"))
    return Figure("losses", "Where the loss comes from", _caption(entries, rows), _numbers(entries), data, layout)


def _caption(entries: Sequence[dict[str, Any]], rows: Sequence[Row]) -> str:
    unknown = [TITLES[name] for name in PARTS if any(name in entry["unknown"] for entry in entries)]
    repeats = sorted({len(entry["slugs"]) for entry in entries})
    among = f" Not known of some scales, and there among unexplained: {', '.join(unknown)}." * bool(unknown)
    return (
        "How much longer each part of a step takes than the baseline's, as a share of the step: a point is 1 % of it. "
        "The parts sum to the gap, which is 100 % less the efficiency; below zero a part takes less than the "
        "baseline's. With strong scaling the baseline's parts count times N₀ ÷ N. Baseline: each curve's smallest ok "
        f"scale, named above its panel; panels share one range. {windows(rows)} Parts: of each sampled step the rank "
        "in the middle by waiting, median over these steps; data: mean over the window. Means over "
        f"{extent(repeats)} repeat{'s' * (repeats != [1])} a scale; 95 % intervals over repeats where one points at "
        f"a part. Hollow, {UNSURE}: too uncertain to tell, with an interval that holds zero, or none, as with a single "
        f"run of a scale.{among}"
    )


def _part(entry: dict[str, Any], name: str) -> dict[str, Any]:
    [part] = [part for part in entry["parts"] if part["name"] == name]
    return part


def _lost(entry: dict[str, Any], name: str) -> Interval | None:
    """The part's points as an interval, in shares of the step."""
    lost = _part(entry, name)["lost_efficiency"]
    return Interval(**lost) if lost else None


def _gap_of(share: Interval) -> Interval:
    """The whole gap as such an interval: what an efficiency lacks of 1."""
    lo, hi = (None if bound is None else 1 - bound for bound in (share.hi, share.lo))
    return Interval(1 - share.value, lo, hi, share.kind)


def _certain(lost: Interval | None) -> bool:
    """Whether the interval says that something is lost, or won."""
    return lost is not None and lost.excludes(0)


def _bounds(lost: Interval) -> str:
    return "" if lost.lo is None or lost.hi is None else f" [{100 * lost.lo:.2f}, {100 * lost.hi:.2f}]"


def _outline(ink: str) -> Dict:
    return {"color": ink, "width": 2}


def _marker(name: str, tells: Sequence[bool] = (True,)) -> Dict:
    """How a part is filled, at scales of which its interval tells and at others."""
    ink = f"var(--part-{name})"
    marker: Dict = {"color": ink} if all(tells) else {"color": [ink if each else HOLLOW for each in tells]}
    marker["line"] = {"color": ink, "width": 0 if all(tells) else [0 if each else 2 for each in tells]}
    return marker | ({"pattern": {"shape": "/", "size": 6, "solidity": 0.35}} if name == UNEXPLAINED else {})


def _legend(title: str, group: str, marker: Dict) -> Dict:
    """A place in the legend, of something that is drawn in several ways."""
    return {"type": "bar", "x": [None], "y": [None], "name": title, "legendgroup": group, "marker": marker}


def _points(entry: dict[str, Any], name: str) -> float | None:
    lost = _lost(entry, name)
    return None if lost is None else 100 * lost.value


def _gap(entry: dict[str, Any]) -> float:
    return 100 * entry["gap_s"] / entry["step_s"]


def _reach(entries: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """One range for all panels, with room around the tallest stack each way."""
    ends = [0.0, 1.0]
    for entry in entries:
        points = [_points(entry, part["name"]) or 0.0 for part in entry["parts"]]
        ends += [sum(p for p in points if p > 0), sum(p for p in points if p < 0), _gap(entry)]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low)
    return low - room * (low < 0), high + room


def _scale(entry: dict[str, Any], mine: Sequence[dict[str, Any]]) -> str:
    """GPUs, with the number of nodes where that alone does not tell scales apart."""
    alike = [other["gpus"] for other in mine].count(entry["gpus"]) > 1
    return f"{entry['gpus']}" + f" on {entry['nodes']}" * alike


def _words(entry: dict[str, Any], name: str) -> str:
    part, share = _part(entry, name), _lost(entry, name)
    if share is None:
        return ""
    doubt = f" {UNSURE}" * (not _certain(share))
    own = f"{milliseconds(part['own_s'])} ms of a step"
    return (
        f"{escape(entry['label'])}<br>{TITLES[name]}: {100 * share.value:.2f}{_bounds(share)} points{doubt}<br>"
        f"{own}, {milliseconds(part['lost_s']['value'])} ms beyond the baseline's"
    )


def _numbers(entries: Sequence[dict[str, Any]]) -> Numbers:
    """As in breakdown.csv, the baselines' own left out."""
    scale = ("curve", "scaling", "label", "baseline", "nodes", "gpus", "step_s", "ideal_s", "gap_s")
    heads = [*scale, "part", "own_s"]
    heads += [f"{what}{end}" for what in ("lost_s", "lost_efficiency") for end in ("", "_lo", "_hi")] + ["interval"]
    lines: list[list[Cell]] = []
    for entry in entries:
        for part in entry["parts"]:
            bounds: list[Cell] = []
            for what in ("lost_s", "lost_efficiency"):
                bounds += [part[what][key] if part[what] else None for key in ("value", "lo", "hi")]
            kind = part["lost_s"]["kind"] if part["lost_s"] else None
            lines.append([*(entry[name] for name in scale), part["name"], part["own_s"], *bounds, kind])
    return Numbers(heads, lines)
