"""What single steps of each point took, and their collectives."""

from collections.abc import Sequence
from html import escape

from harness.analysis.efficiency import Curve
from harness.analysis.summary import Row
from harness.quantities import number
from harness.report.figures.figure import (
    COMMUNICATION,
    Dict,
    Figure,
    bars_height,
    color,
    colors,
    extent,
    labels,
    names_axis,
    of_rows,
    windows,
)

_BOX = {"lowerfence": "min", "q1": "p25", "median": "p50", "q3": "p75", "upperfence": "p95"}


def step_times(rows: Sequence[Row], curves: Sequence[Curve]) -> Figure:
    """A box a point, from the window's quantiles."""
    inks = colors(curves)
    named = labels(rows)
    data: list[Dict] = []
    for name, ink in inks.items():
        mine = [(label, row) for label, row in zip(named, rows, strict=True) if row["curve"] == name]
        box: Dict = {key: [row[f"step_s_{column}"] * 1e3 for _, row in mine] for key, column in _BOX.items()}
        box |= {"type": "box", "orientation": "h", "y": [label for label, _ in mine], "name": escape(name)}
        data.append(box | {"line": {"color": ink, "width": 1.5}, "width": 0.5, "showlegend": False})
        longest: Dict = {"type": "scatter", "mode": "markers", "x": [row["step_s_max"] * 1e3 for _, row in mine]}
        longest |= {"y": box["y"], "name": "longest step", "showlegend": False}
        longest["marker"] = {"color": ink, "symbol": "line-ns-open", "size": 9}
        data.append(longest | {"hovertemplate": "longest step %{x:.4g} ms<extra>%{y}</extra>"})
    layout = {
        "height": bars_height(rows),
        "xaxis": {"title": {"text": "step time (ms)"}, "rangemode": "tozero", "separatethousands": True},
        "yaxis": names_axis(named),
    }
    caption = (
        f"Box: first quartile, median, third quartile; whiskers: shortest step and 95th percentile; "
        f"tick: longest step. Slowest rank of each step. {windows(rows)} One box a run, no baseline."
    )
    numbers = of_rows(rows, *(f"step_s_{name}" for name in (*_BOX.values(), "max")), "window_steps")
    return Figure("step-times", "Step times", caption, numbers, data, layout)


def collectives(rows: Sequence[Row]) -> Figure:
    """Time in collectives by operation and point."""
    rows = [row for row in rows if any(row[f"{name}_s_p50"] is not None for name in COMMUNICATION)]
    named = labels(rows)
    data: list[Dict] = []
    for index, (name, title) in enumerate(COMMUNICATION.items()):
        values: list[float | None] = [row[f"{name}_s_p50"] for row in rows]
        if any(value is not None for value in values):
            bar: Dict = {"type": "bar", "orientation": "h", "y": named, "name": title}
            bar["x"] = [None if value is None else value * 1e3 for value in values]
            bar["text"] = ["" if value is None else number(value * 1e3, 3) for value in values]
            bar |= {"textposition": "outside", "cliponaxis": False, "marker": {"color": color(index)}}
            data.append(bar | {"hovertemplate": f"{title} %{{x:.4g}} ms<extra>%{{y}}</extra>"})
    layout = {
        "height": bars_height(rows, 20 + 16 * len(data)),
        "barmode": "group",
        "xaxis": {"title": {"text": "time in a step (ms)"}, "rangemode": "tozero"},
        "yaxis": names_axis(named),
        "legend": {"traceorder": "normal"},
    }
    windows = sorted({row["sampled_steps"] for row in rows if row["sampled_steps"]})
    caption = (
        "Summed durations of a step's operations of 64 KiB and more, median over ranks, then over "
        f"{extent(windows)} sampled steps a run. Overlap with compute is not "
        "taken off. Runs without collectives are left out. One bar a run, no baseline."
    )
    numbers = of_rows(rows, *(f"{name}_s_p50" for name in COMMUNICATION), "sampled_steps")
    return Figure("collectives", "Collectives in a step", caption, numbers, data, layout)
