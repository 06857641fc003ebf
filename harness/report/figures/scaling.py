"""Tokens/s and efficiency against scale."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from harness.analysis.efficiency import Curve, Scale
from harness.analysis.intervals import Interval
from harness.analysis.summary import Row
from harness.quantities import number
from harness.report.figures.figure import (
    HOLLOW,
    OTHERS,
    SYMBOLS,
    WITHIN_RUN,
    Cell,
    Dict,
    Figure,
    Numbers,
    axes,
    colors,
    doubt,
    extent,
    folded,
    heading,
    leading,
    panels,
    windows,
    within,
)
from harness.report.words import MOST_NAMED, TOO_WIDE, UNSURE, percent, unit


def throughput(curves: Sequence[Curve], rows: Sequence[Row]) -> Figure:
    """Tokens/s against scale, each curve with its ideal line."""
    over = unit(rows)
    named, inks = leading(curves), colors(curves)
    others = [curve for curve in curves if inks[curve.name] == OTHERS]
    rates = [scale.tokens_per_s for curve in curves for scale in curve.scales]
    bounds = [_ends(value) for value in rates]
    low, high = (
        min(low for low, _ in bounds),
        max([high for _, high in bounds] + [_ideal_rate(c, c.largest.gpus) for c in named]),
    )

    def line(curve: Curve) -> Dict:
        values = [scale.tokens_per_s for scale in curve.scales]
        text = [f"{number(value.value)} tokens/s {within(value)}" for value in values]
        return _line(curve, inks[curve.name], values, text, [doubt(value) for value in values], 2 * high)

    data = [line(curve) | folded(len(others)) | {"showlegend": curve is others[0]} for curve in others]
    for curve, symbol in zip(named, SYMBOLS, strict=False):
        gpus = [scale.gpus for scale in curve.scales]
        ideal = [_ideal_rate(curve, count) for count in gpus]
        data.append(_ideal(gpus, ideal, curve.name, inks[curve.name]) | {"showlegend": len(curves) == 1})
        own = line(curve)
        data.append(own | {"marker": own["marker"] | {"symbol": symbol}})
    axis = _rate_axis(curves)
    if not all(value.tells for value in rates):
        logs = [math.log10(0.9 * low), math.log10(1.1 * high)]
        axis["range"] = logs if axis.get("type") == "log" else [0, 1.05 * high]
    layout = {
        # a long name has a line of its own above the lines
        "height": 400 + 20 * min(len(curves), len(named) + 1),
        "xaxis": _scale_axis(curves, over),
        "yaxis": {"title": {"text": "tokens/s"}, "tickformat": ",", **axis},
    }
    most = (
        f" Named and coloured: the {len(named) // 2} curves with the most tokens/s/{over[:-1]} at their largest scale "
        f"and the {len(named) // 2} with the least; grey: the other {len(others)}, named where one points at them."
    )
    caption = (
        f"Tokens of the measured steps ÷ their summed durations on the slowest rank. {windows(rows)} "
        f"{_repeats(curves)} Dotted: ideal, each curve's baseline times the {over} ratio. {_baselines(curves)}"
        + most
        * bool(others)
    )
    numbers = _numbers(curves, "tokens_per_s", ideal=True)
    return Figure("throughput", f"Tokens/s against {over}", caption, numbers, data, layout)


def efficiency(curves: Sequence[Curve], rows: Sequence[Row]) -> Figure:
    """A panel a curve of several scales: curves with different baselines never share an axis. All panels have the same
    range, and each curve its colour among all."""
    over = unit(rows)
    inks = colors(curves)
    curves = [curve for curve in curves if len(curve.scales) > 1]
    shares = [scale.efficiency for curve in curves for scale in curve.scales]
    low, high = min(_ends(share)[0] for share in shares), max(_ends(share)[1] for share in shares)
    floor = max(0.0, min(0.8, int(low * 10) / 10 - 0.1))
    layout = panels(len(curves)) | {"showlegend": False}
    data: list[Dict] = []
    for index, curve in enumerate(curves):
        panel = str(index + 1) if index else ""
        gpus = [scale.gpus for scale in curve.scales]
        values = [scale.efficiency for scale in curve.scales]
        marks = ["", *map(doubt, values[1:])]  # the baseline is 100 % of itself
        text = [f"{percent(value.value)} {within(value, share=True)}" for value in values]
        ink = inks[curve.name]
        line = _line(curve, ink, values, text, marks, 2 * high)
        data += [_ideal(gpus, [1.0] * len(gpus), curve.name, ink) | axes(panel), line | axes(panel)]
        layout[f"xaxis{panel}"] = _scale_axis([curve], over)
        share_axis: Dict = {"tickformat": ".0%", "range": [floor, max(1.05, high + 0.02)]}
        layout[f"yaxis{panel}"] = share_axis
        if index % layout["grid"]["columns"] == 0:
            share_axis["title"] = {"text": "efficiency"}
        kept = f"<b>{escape(curve.name)}</b>: {percent(values[-1].value)}{marks[-1]} at {gpus[-1]}"
        of = f"{curve.scaling}, of {escape(curve.baseline.label)}{WITHIN_RUN * (values[-1].kind == 'within-run')}"
        layout["annotations"].append(heading(panel, f"{kept}<br>{of}"))
    formulas = {
        "weak": f"weak scaling: (tokens/s/{over[:-1]}) ÷ (the baseline's)",
        "strong": "strong scaling: T₀·N₀ ÷ (T·N), T the mean step time",
    }
    used = "; ".join(text for scaling, text in formulas.items() if any(curve.scaling == scaling for curve in curves))
    caption = (
        f"{used[0].upper()}{used[1:]}. The baseline is the smallest ok scale of each curve, named above its panel; "
        f"panels share one range{'' if floor == 0 else ', which does not begin at zero'}. "
        f"The baseline's own uncertainty is in the intervals. {windows(rows)} {_repeats(curves)}"
    )
    numbers = _numbers(curves, "efficiency", ideal=False)
    return Figure("efficiency", "Efficiency against each curve's baseline", caption, numbers, data, layout)


def _numbers(curves: Sequence[Curve], what: str, ideal: bool) -> Numbers:
    """A line for each curve and scale, with the interval and what it is over."""
    heads = ["curve", "scaling", "label", "baseline", "nodes", "gpus", "repeats"]
    heads += [what, f"{what}_lo", f"{what}_hi", "interval", *(["ideal"] * ideal)]

    def lines() -> Iterator[list[Cell]]:
        for curve in curves:
            for scale in curve.scales:
                value: Interval = getattr(scale, what)
                place: list[Cell] = [scale.label, curve.baseline.label, scale.nodes, scale.gpus, len(scale.slugs)]
                expected = [_ideal_rate(curve, scale.gpus)] * ideal
                own: list[Cell] = [value.value, value.lo, value.hi, value.kind, *expected]
                yield [curve.name, curve.scaling, *place, *own]

    return Numbers(heads, list(lines()))


def _ends(value: Interval) -> tuple[float, float]:
    """What an axis has to hold of a value: its interval, unless that tells too little."""
    if value.lo is None or value.hi is None or not value.tells:
        return value.value, value.value
    return value.lo, value.hi


def _line(
    curve: Curve, ink: str, values: Sequence[Interval], text: Sequence[str], marks: Sequence[str], end: float
) -> Dict:
    """Values with their bars, hollow where they have a mark; `end` is out of sight, and so no bar goes on beyond it."""
    up = [min(value.hi, end) - value.value if value.hi is not None else 0 for value in values]
    down = [value.value - value.lo if value.lo is not None else 0 for value in values]
    error = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 4}
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": [scale.gpus for scale in curve.scales],
        "y": [value.value for value in values],
        "error_y": error,
        "name": escape(curve.name),
        "line": {"color": ink, "width": 1 if ink == OTHERS else 2},
        "marker": {
            "size": 5 if ink == OTHERS else 8,
            "color": [HOLLOW if mark else ink for mark in marks] if any(marks) else ink,
            "line": {"color": ink, "width": 2},
        },
        "customdata": [
            f"{escape(scale.label)}<br>{escape(words)}{mark}"
            for scale, words, mark in zip(curve.scales, text, marks, strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _ideal_rate(curve: Curve, gpus: int) -> float:
    return curve.baseline.tokens_per_s.value / curve.baseline.gpus * gpus


def _ideal(gpus: list[int], values: list[float], name: str, ink: str) -> Dict:
    line = {"type": "scatter", "mode": "lines", "x": gpus, "y": values, "name": f"ideal, {escape(name)}"}
    style = {"line": {"color": ink, "width": 1.2, "dash": "dot"}, "opacity": 0.7, "hoverinfo": "skip"}
    return line | style


def _scale_axis(curves: Sequence[Curve], over: str) -> Dict:
    gpus = sorted({scale.gpus for curve in curves for scale in curve.scales})
    axis: Dict = {"title": {"text": over}, "tickvals": gpus, "ticktext": [str(count) for count in gpus]}
    return axis | {"type": "log"} if gpus[-1] >= 8 * gpus[0] else axis


def _rate_axis(curves: Sequence[Curve]) -> Dict:
    gpus = [scale.gpus for curve in curves for scale in curve.scales]
    return {"type": "log", "dtick": "D2"} if max(gpus) >= 8 * min(gpus) else {"rangemode": "tozero"}


def _repeats(curves: Sequence[Curve]) -> str:
    """What the bars are taken over."""
    scales: list[Scale] = [scale for curve in curves for scale in curve.scales]
    repeats = sorted({len(scale.slugs) for scale in scales})
    kinds = sorted({scale.tokens_per_s.kind for scale in scales if scale.tokens_per_s.kind})
    named = {"repeats": "t-interval over repeats", "within-run": "within-run, moving-block bootstrap over steps"}
    bars = " or ".join(named[kind] for kind in kinds)
    runs = f"{extent(repeats)} repeat{'s' * (repeats != [1])} a scale"
    drawn = f" Bars: 95 % intervals, {bars}." * bool(bars)
    shares = [scale.efficiency for curve in curves for scale in curve.scales[1:]]
    if not all(value.tells for value in [*(scale.tokens_per_s for scale in scales), *shares]):
        drawn += f" Hollow, {UNSURE}: too uncertain to tell, with {TOO_WIDE}; its bar may leave the panel."
    return f"{runs[0].upper()}{runs[1:]}.{drawn}"


def _baselines(curves: Sequence[Curve]) -> str:
    labels = list(dict.fromkeys(curve.baseline.label for curve in curves))
    if len(labels) > MOST_NAMED:
        return "Baseline: each curve's smallest ok scale."
    return f"Baseline{'s' * (len(labels) > 1)}: {', '.join(labels)}."
