"""The page's figures, as plotly's plain data and layout.

Colours are names of the page's style (`var(--series-1)`), resolved in the browser, so that one figure serves light
and dark. Texts from the study are escaped: plotly reads some HTML in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from harness.analysis.efficiency import Curve, Scale
from harness.analysis.goodput import BUCKETS
from harness.analysis.intervals import TELLING, Interval
from harness.analysis.summary import Row
from harness.report.words import names, number, percent, span, unit

Dict = dict[str, Any]
SERIES = 8
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
PANELS_A_ROW = 3
COMMUNICATION = {
    "all_reduce": "all-reduce",
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "all_to_all": "all-to-all",
    "send_recv": "send/recv",
    "broadcast": "broadcast",
    "reduce": "reduce",
}
# A bucket below this share of every point's wall-clock could not be seen.
UNSEEN = 1e-3
LEDGER = ("step", *(name for name in BUCKETS if name != "step"))


@dataclass(frozen=True)
class Figure:
    """One figure: `key` names it on the page, `caption` states convention, baseline, window and repeats."""

    key: str
    title: str
    caption: str
    data: list[Dict]
    layout: Dict


def figures(rows: Sequence[Row], curves: Sequence[Curve]) -> list[Figure]:
    """All figures that the study has data for."""
    ok = [row for row in rows if row["status"] == "ok" and row["step_s_p50"] is not None]
    started = [row for row in rows if row["wall_s"]]
    made = []
    if curves:
        made += [throughput(curves, rows), efficiency(curves, rows)]
    if ok:
        made.append(step_times(ok, curves))
    if any(row[f"{name}_s_p50"] is not None for row in ok for name in COMMUNICATION):
        made.append(collectives(ok))
    if started:
        made.append(goodput(started))
    return made


def throughput(curves: Sequence[Curve], rows: Sequence[Row]) -> Figure:
    """Tokens/s against scale, each curve with its ideal line."""
    over = unit(rows)
    data: list[Dict] = []
    for index, curve in enumerate(curves):
        gpus = [scale.gpus for scale in curve.scales]
        base = curve.baseline.tokens_per_s.value / curve.baseline.gpus
        data.append(
            _ideal(gpus, [base * count for count in gpus], curve.name, index) | {"showlegend": len(curves) == 1}
        )
        values = [scale.tokens_per_s for scale in curve.scales]
        text = [f"{number(value.value)} tokens/s {_within(value)}" for value in values]
        data.append(_line(curve, index, gpus, values, text))
    layout = {
        "height": 420,
        "xaxis": _scale_axis(curves, over),
        "yaxis": {"title": {"text": "tokens/s"}, "tickformat": ",", **_rate_axis(curves)},
    }
    caption = (
        f"Tokens of the measured steps ÷ their summed durations on the slowest rank. {_windows(rows)} "
        f"{_repeats(curves)} Dotted: ideal, each curve's baseline times the {over} ratio. {_baselines(curves)}"
    )
    return Figure("throughput", f"Tokens/s against {over}", caption, data, layout)


def efficiency(curves: Sequence[Curve], rows: Sequence[Row]) -> Figure:
    """A panel a curve: curves with different baselines never share an axis. All panels have the same range."""
    over = unit(rows)
    shares = [scale.efficiency for curve in curves for scale in curve.scales]
    low = min(share.lo if share.lo is not None and share.tells else share.value for share in shares)
    high = max(share.hi if share.hi is not None and share.tells else share.value for share in shares)
    floor = max(0.0, min(0.8, int(low * 10) / 10 - 0.1))
    columns = min(PANELS_A_ROW, len(curves))
    lines = -(-len(curves) // columns)
    layout: Dict = {
        "height": 120 + 260 * lines,
        "showlegend": False,
        "grid": {"rows": lines, "columns": columns, "pattern": "independent", "xgap": 0.12, "ygap": 0.35},
        "annotations": [],
    }
    data: list[Dict] = []
    for index, curve in enumerate(curves):
        panel = str(index + 1) if index else ""
        axes = {"xaxis": f"x{panel}", "yaxis": f"y{panel}"}
        gpus = [scale.gpus for scale in curve.scales]
        values = [scale.efficiency for scale in curve.scales]
        text = [f"{percent(value.value)} {_within(value, share=True)}" for value in values]
        line = _line(curve, index, gpus, values, text)
        data += [_ideal(gpus, [1.0] * len(gpus), curve.name, index) | axes, line | axes]
        layout[f"xaxis{panel}"] = _scale_axis([curve], over)
        share_axis: Dict = {"tickformat": ".0%", "range": [floor, max(1.05, high + 0.02)]}
        layout[f"yaxis{panel}"] = share_axis
        if index % columns == 0:
            share_axis["title"] = {"text": "efficiency"}
        layout["annotations"].append(
            {
                "text": f"<b>{escape(curve.name)}</b>: {percent(values[-1].value)} at {gpus[-1]}<br>"
                f"{curve.scaling}, of {escape(curve.baseline.label)}",
                "xref": f"x{panel} domain",
                "yref": f"y{panel} domain",
                "x": 0,
                "y": 1,
                "xanchor": "left",
                "yanchor": "bottom",
                "align": "left",
                "showarrow": False,
            }
        )
    formulas = {
        "weak": f"weak scaling: (tokens/s/{over[:-1]}) ÷ (the baseline's)",
        "strong": "strong scaling: T₀·N₀ ÷ (T·N), T the mean step time",
    }
    used = "; ".join(text for scaling, text in formulas.items() if any(curve.scaling == scaling for curve in curves))
    caption = (
        f"{used[0].upper()}{used[1:]}. The baseline is the smallest ok scale of each curve, named above its panel; "
        f"panels share one range{'' if floor == 0 else ', which does not begin at zero'}. "
        f"The baseline's own uncertainty is in the intervals. {_windows(rows)} {_repeats(curves)}"
    )
    return Figure("efficiency", "Efficiency against each curve's baseline", caption, data, layout)


def step_times(rows: Sequence[Row], curves: Sequence[Curve]) -> Figure:
    """A box a point, from the window's quantiles."""
    order = {curve.name: index for index, curve in enumerate(curves)}
    labels = _labels(rows)
    data: list[Dict] = []
    for name, index in order.items():
        mine = [(label, row) for label, row in zip(labels, rows, strict=True) if row["curve"] == name]
        box: Dict = {key: [row[f"step_s_{column}"] * 1e3 for _, row in mine] for key, column in _BOX.items()}
        box |= {"type": "box", "orientation": "h", "y": [label for label, _ in mine], "name": escape(name)}
        data.append(box | {"line": {"color": _color(index), "width": 1.5}, "width": 0.5, "showlegend": False})
        longest: Dict = {"type": "scatter", "mode": "markers", "x": [row["step_s_max"] * 1e3 for _, row in mine]}
        longest |= {"y": box["y"], "name": "longest step", "showlegend": False}
        longest["marker"] = {"color": _color(index), "symbol": "line-ns-open", "size": 9}
        data.append(longest | {"hovertemplate": "longest step %{x:.4g} ms<extra>%{y}</extra>"})
    layout = {
        "height": _bars_height(rows),
        "xaxis": {"title": {"text": "step time (ms)"}, "rangemode": "tozero", "separatethousands": True},
        "yaxis": _names_axis(labels),
    }
    caption = (
        f"Box: first quartile, median, third quartile; whiskers: shortest step and 95th percentile; "
        f"tick: longest step. Slowest rank of each step. {_windows(rows)} One box a run, no baseline."
    )
    return Figure("step-times", "Step times", caption, data, layout)


_BOX = {"lowerfence": "min", "q1": "p25", "median": "p50", "q3": "p75", "upperfence": "p95"}


def collectives(rows: Sequence[Row]) -> Figure:
    """Time in collectives by operation and point."""
    rows = [row for row in rows if any(row[f"{name}_s_p50"] is not None for name in COMMUNICATION)]
    labels = _labels(rows)
    data: list[Dict] = []
    for index, (name, title) in enumerate(COMMUNICATION.items()):
        values: list[float | None] = [row[f"{name}_s_p50"] for row in rows]
        if any(value is not None for value in values):
            bar: Dict = {"type": "bar", "orientation": "h", "y": labels, "name": title}
            bar["x"] = [None if value is None else value * 1e3 for value in values]
            bar["text"] = ["" if value is None else number(value * 1e3, 3) for value in values]
            bar |= {"textposition": "outside", "cliponaxis": False, "marker": {"color": _color(index)}}
            data.append(bar | {"hovertemplate": f"{title} %{{x:.4g}} ms<extra>%{{y}}</extra>"})
    layout = {
        "height": _bars_height(rows, 20 + 16 * len(data)),
        "barmode": "group",
        "xaxis": {"title": {"text": "time in a step (ms)"}, "rangemode": "tozero"},
        "yaxis": _names_axis(labels),
        "legend": {"traceorder": "normal"},
    }
    windows = sorted({row["sampled_steps"] for row in rows if row["sampled_steps"]})
    caption = (
        "Summed durations of a step's operations of 64 KiB and more, median over ranks, then over "
        f"{_range(windows)} sampled steps a run. Overlap with compute is not "
        "taken off. Runs without collectives are left out. One bar a run, no baseline."
    )
    return Figure("collectives", "Collectives in a step", caption, data, layout)


def goodput(rows: Sequence[Row]) -> Figure:
    """Where each point's wall-clock went, as shares."""
    labels = _labels(rows)
    data = []
    for name in LEDGER:
        seconds = [row[f"ledger_{name}_s"] for row in rows]
        if any(part > UNSEEN * row["wall_s"] for part, row in zip(seconds, rows, strict=True)):
            title = "productive steps" if name == "step" else name.replace("_", " ")
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "y": labels,
                    "x": [part / row["wall_s"] for part, row in zip(seconds, rows, strict=True)],
                    "customdata": [round(part, 3) for part in seconds],
                    "name": title,
                    "marker": {"color": f"var(--ledger-{name.replace('_', '-')})"},
                    "hovertemplate": f"{title} %{{customdata:.4g}} s, %{{x:.1%}}<extra>%{{y}}</extra>",
                }
            )
    layout = {
        "height": _bars_height(rows) + 60,
        "barmode": "stack",
        "xaxis": {"title": {"text": "share of wall-clock"}, "tickformat": ".0%", "range": [0, 1]},
        "yaxis": _names_axis(labels),
        "legend": {"traceorder": "normal"},
    }
    walls = sorted(row["wall_s"] for row in rows)
    caption = (
        "Wall-clock from the first attempt's launch to the last process end, gaps between attempts included, "
        f"queueing before it not: {_range([number(wall, 3) for wall in walls])} s a run. A step that was run again "
        "counts once. The first bar is the goodput fraction. All steps, warm-up included; one bar a run, no baseline."
    )
    return Figure("goodput", "Where the wall-clock went", caption, data, layout)


def _line(curve: Curve, index: int, gpus: list[int], values: list[Interval], text: list[str]) -> Dict:
    # A bar that tells nothing would only stretch the axis; its bounds are read where one points at the value.
    up = [value.hi - value.value if value.hi is not None and value.tells else 0 for value in values]
    down = [value.value - value.lo if value.lo is not None and value.tells else 0 for value in values]
    error = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 4}
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": gpus,
        "y": [value.value for value in values],
        "error_y": error,
        "name": escape(curve.name),
        "line": {"color": _color(index), "width": 2},
        "marker": {"symbol": SYMBOLS[index % SERIES], "size": 8},
        "customdata": [
            f"{escape(scale.label)}<br>{escape(words)}" for scale, words in zip(curve.scales, text, strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _ideal(gpus: list[int], values: list[float], name: str, index: int) -> Dict:
    line = {"type": "scatter", "mode": "lines", "x": gpus, "y": values, "name": f"ideal, {escape(name)}"}
    style = {"line": {"color": _color(index), "width": 1.2, "dash": "dot"}, "opacity": 0.7, "hoverinfo": "skip"}
    return line | style


def _scale_axis(curves: Sequence[Curve], over: str) -> Dict:
    gpus = sorted({scale.gpus for curve in curves for scale in curve.scales})
    axis: Dict = {"title": {"text": over}, "tickvals": gpus, "ticktext": [str(count) for count in gpus]}
    return axis | {"type": "log"} if gpus[-1] >= 8 * gpus[0] else axis


def _rate_axis(curves: Sequence[Curve]) -> Dict:
    gpus = [scale.gpus for curve in curves for scale in curve.scales]
    return {"type": "log", "dtick": "D2"} if max(gpus) >= 8 * min(gpus) else {"rangemode": "tozero"}


def _names_axis(labels: list[str]) -> Dict:
    return {"type": "category", "categoryorder": "array", "categoryarray": labels, "range": [len(labels) - 0.5, -0.5]}


def _labels(rows: Sequence[Row]) -> list[str]:
    """Names for an axis; a point that is not `ok` says so."""
    return [
        escape(name if row["status"] == "ok" else f"{name} ({row['status']})")
        for name, row in zip(names(rows), rows, strict=True)
    ]


def _bars_height(rows: Sequence[Row], each: int = 34) -> int:
    return 130 + each * len(rows)


def _color(index: int) -> str:
    return f"var(--series-{index % SERIES + 1})"


def _within(value: Interval, share: bool = False) -> str:
    if value.lo is None or value.hi is None:
        return ""
    bounds = span(value) if share else f"[{number(value.lo)}, {number(value.hi)}]"
    return f"{bounds}, {value.kind}"


def _windows(rows: Sequence[Row]) -> str:
    steps = sorted({row["window_steps"] for row in rows if row["status"] == "ok" and row["window_steps"]})
    return f"Window: {_range(steps)} measured steps a run, without warm-up and sampled steps."


def _repeats(curves: Sequence[Curve]) -> str:
    """What the bars are taken over."""
    scales: list[Scale] = [scale for curve in curves for scale in curve.scales]
    repeats = sorted({len(scale.slugs) for scale in scales})
    kinds = sorted({scale.tokens_per_s.kind for scale in scales if scale.tokens_per_s.kind})
    named = {"repeats": "t-interval over repeats", "within-run": "within-run, moving-block bootstrap over steps"}
    bars = " or ".join(named[kind] for kind in kinds)
    runs = f"{_range(repeats)} repeat{'s' * (repeats != [1])} a scale"
    drawn = f" Bars: 95 % intervals, {bars}." * bool(bars)
    intervals = [value for scale in scales for value in (scale.tokens_per_s, scale.efficiency) if value.kind]
    if not all(value.tells for value in intervals):
        drawn += f" Those wider than {percent(TELLING)} of their value tell nothing and are not drawn."
    return f"{runs[0].upper()}{runs[1:]}.{drawn}"


def _baselines(curves: Sequence[Curve]) -> str:
    labels = list(dict.fromkeys(curve.baseline.label for curve in curves))
    return f"Baseline{'s' * (len(labels) > 1)}: {', '.join(labels)}."


def _range(values: Sequence[Any]) -> str:
    """`20`, or `20 to 40`, of sorted values."""
    if not values:
        return "no"
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
