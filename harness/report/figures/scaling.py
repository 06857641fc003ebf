"""Tokens/s and efficiency against scale."""

from collections.abc import Iterator, Sequence
from html import escape

from harness.analysis.efficiency import Curve, Scale
from harness.analysis.intervals import TELLING, Interval
from harness.analysis.summary import Row
from harness.quantities import number
from harness.report.figures.figure import (
    SERIES,
    SYMBOLS,
    Cell,
    Dict,
    Figure,
    Numbers,
    axes,
    color,
    extent,
    heading,
    panels,
    windows,
    within,
)
from harness.report.words import percent, unit


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
        text = [f"{number(value.value)} tokens/s {within(value)}" for value in values]
        data.append(_line(curve, index, gpus, values, text))
    layout = {
        "height": 420,
        "xaxis": _scale_axis(curves, over),
        "yaxis": {"title": {"text": "tokens/s"}, "tickformat": ",", **_rate_axis(curves)},
    }
    caption = (
        f"Tokens of the measured steps ÷ their summed durations on the slowest rank. {windows(rows)} "
        f"{_repeats(curves)} Dotted: ideal, each curve's baseline times the {over} ratio. {_baselines(curves)}"
    )
    numbers = _numbers(curves, "tokens_per_s", ideal=True)
    return Figure("throughput", f"Tokens/s against {over}", caption, numbers, data, layout)


def efficiency(curves: Sequence[Curve], rows: Sequence[Row]) -> Figure:
    """A panel a curve of several scales: curves with different baselines never share an axis. All panels have the same
    range, and each curve its colour among all."""
    over = unit(rows)
    order = {curve.name: index for index, curve in enumerate(curves)}
    curves = [curve for curve in curves if len(curve.scales) > 1]
    shares = [scale.efficiency for curve in curves for scale in curve.scales]
    low = min(share.lo if share.lo is not None and share.tells else share.value for share in shares)
    high = max(share.hi if share.hi is not None and share.tells else share.value for share in shares)
    floor = max(0.0, min(0.8, int(low * 10) / 10 - 0.1))
    layout = panels(len(curves)) | {"showlegend": False}
    data: list[Dict] = []
    for index, curve in enumerate(curves):
        panel = str(index + 1) if index else ""
        gpus = [scale.gpus for scale in curve.scales]
        values = [scale.efficiency for scale in curve.scales]
        text = [f"{percent(value.value)} {within(value, share=True)}" for value in values]
        line = _line(curve, order[curve.name], gpus, values, text)
        data += [_ideal(gpus, [1.0] * len(gpus), curve.name, order[curve.name]) | axes(panel), line | axes(panel)]
        layout[f"xaxis{panel}"] = _scale_axis([curve], over)
        share_axis: Dict = {"tickformat": ".0%", "range": [floor, max(1.05, high + 0.02)]}
        layout[f"yaxis{panel}"] = share_axis
        if index % layout["grid"]["columns"] == 0:
            share_axis["title"] = {"text": "efficiency"}
        kept = f"<b>{escape(curve.name)}</b>: {percent(values[-1].value)} at {gpus[-1]}"
        of = f"{curve.scaling}, of {escape(curve.baseline.label)}"
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
                expected = curve.baseline.tokens_per_s.value / curve.baseline.gpus * scale.gpus
                own: list[Cell] = [value.value, value.lo, value.hi, value.kind, *([expected] * ideal)]
                yield [curve.name, curve.scaling, *place, *own]

    return Numbers(heads, list(lines()))


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
        "line": {"color": color(index), "width": 2},
        "marker": {"symbol": SYMBOLS[index % SERIES], "size": 8},
        "customdata": [
            f"{escape(scale.label)}<br>{escape(words)}" for scale, words in zip(curve.scales, text, strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _ideal(gpus: list[int], values: list[float], name: str, index: int) -> Dict:
    line = {"type": "scatter", "mode": "lines", "x": gpus, "y": values, "name": f"ideal, {escape(name)}"}
    style = {"line": {"color": color(index), "width": 1.2, "dash": "dot"}, "opacity": 0.7, "hoverinfo": "skip"}
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
    intervals = [value for scale in scales for value in (scale.tokens_per_s, scale.efficiency) if value.kind]
    if not all(value.tells for value in intervals):
        drawn += f" Those wider than {percent(TELLING)} of their value tell nothing and are not drawn."
    return f"{runs[0].upper()}{runs[1:]}.{drawn}"


def _baselines(curves: Sequence[Curve]) -> str:
    labels = list(dict.fromkeys(curve.baseline.label for curve in curves))
    return f"Baseline{'s' * (len(labels) > 1)}: {', '.join(labels)}."
