"""Where each point's wall-clock went."""

from collections.abc import Sequence

from harness.analysis.goodput import BUCKETS
from harness.analysis.summary import Row
from harness.quantities import number
from harness.report.figures.figure import Figure, bars_height, extent, labels, names_axis, of_rows

# A bucket below this share of every point's wall-clock could not be seen.
UNSEEN = 1e-3
LEDGER = ("step", *(name for name in BUCKETS if name != "step"))


def goodput(rows: Sequence[Row]) -> Figure:
    """Where each point's wall-clock went, as shares."""
    named = labels(rows)
    data = []
    for name in LEDGER:
        seconds = [row[f"ledger_{name}_s"] for row in rows]
        if any(part > UNSEEN * row["wall_s"] for part, row in zip(seconds, rows, strict=True)):
            title = "productive steps" if name == "step" else name.replace("_", " ")
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "y": named,
                    "x": [part / row["wall_s"] for part, row in zip(seconds, rows, strict=True)],
                    "customdata": [round(part, 3) for part in seconds],
                    "name": title,
                    "marker": {"color": f"var(--ledger-{name.replace('_', '-')})"},
                    "hovertemplate": f"{title} %{{customdata:.4g}} s, %{{x:.1%}}<extra>%{{y}}</extra>",
                }
            )
    layout = {
        "height": bars_height(rows) + 60,
        "barmode": "stack",
        "xaxis": {"title": {"text": "share of wall-clock"}, "tickformat": ".0%", "range": [0, 1]},
        "yaxis": names_axis(named),
        "legend": {"traceorder": "normal"},
    }
    walls = sorted(row["wall_s"] for row in rows)
    caption = (
        "Wall-clock from the first attempt's launch to the last process end, gaps between attempts included, "
        f"queueing before it not: {extent([number(wall, 3) for wall in walls])} s a run. A step that was run again "
        "counts once. The first bar is the goodput fraction. All steps, warm-up included; one bar a run, no baseline."
    )
    numbers = of_rows(rows, "wall_s", *(f"ledger_{name}_s" for name in LEDGER))
    return Figure("goodput", "Where the wall-clock went", caption, numbers, data, layout)
