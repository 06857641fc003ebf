"""What every figure of the page is made of.

A figure is plotly's plain data and layout. Colours are names of the page's style (`var(--series-1)`), resolved in the
browser, so that one figure serves light and dark. Texts from the study are escaped in them: plotly reads some HTML.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from harness.analysis.efficiency import Curve
from harness.analysis.intervals import Interval
from harness.analysis.summary import Row
from harness.quantities import number
from harness.report.words import UNSURE, names, span

Dict = dict[str, Any]
Cell = str | int | float | None
SERIES = 8
MOST_LEADING = 6
"""Curves that have a colour and a name where there are more than colours; the others are grey."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
PANELS_A_ROW = 3
OTHERS = "var(--edge)"
"""The colour of curves that have none of their own."""
HOLLOW = "var(--page)"
"""What a mark of which its interval tells too little is filled with."""
WITHIN_RUN = ", within one run"
"""Behind what has a single run on a side: its interval knows nothing of other runs."""
INSIDE = {"color": "var(--page)"}
"""Of text in a bar."""
POINT = ("slug", "label", "repeat", "status", "gpus")
COMMUNICATION = {
    "all_reduce": "all-reduce",
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "all_to_all": "all-to-all",
    "send_recv": "send/recv",
    "broadcast": "broadcast",
    "reduce": "reduce",
}


@dataclass(frozen=True)
class Numbers:
    """What a figure shows, as a table: in points.csv's units, and with its names where it has the column.

    Texts are as they are in the study: whoever puts them on a page escapes them.
    """

    heads: Sequence[str]
    lines: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Figure:
    """One figure: `key` names it on the page, `caption` states convention, baseline, window and repeats.

    It is drawn from `data` and `layout`, or is the table `html`.
    """

    key: str
    title: str
    caption: str
    numbers: Numbers
    data: Sequence[Dict] = ()
    layout: Dict | None = None
    html: str = ""


def of_rows(rows: Sequence[Row], *columns: str) -> Numbers:
    """These columns of the rows, behind those that name a point."""
    heads = (*POINT, *columns)
    return Numbers(heads, [[row[head] for head in heads] for row in rows])


def color(index: int) -> str:
    return f"var(--series-{index % SERIES + 1})"


def leading(curves: Sequence[Curve]) -> list[Curve]:
    """The curves that have a colour of their own: all, or where there are more than colours the fastest and slowest."""
    if len(curves) <= SERIES:
        return list(curves)
    # by tokens/s of one GPU, for curves may end at different scales
    ordered = sorted(curves, key=lambda curve: -curve.largest.tokens_per_s.value / curve.largest.gpus)
    return ordered[: MOST_LEADING // 2] + ordered[-MOST_LEADING // 2 :]


def place(index: int, count: int, title: str, what: str = "") -> Dict:
    """A line's place in the legend: its own, or for those beyond as many as there are colours one for all."""
    if index < SERIES:
        return {"name": title + what, "legendgroup": title + what}
    return folded(count - SERIES, what)


def folded(count: int, what: str = "") -> Dict:
    """The place in the legend, behind all names, that lines without one of their own share."""
    others = f"other{'s' * (count != 1)}{what}"
    return {"name": f"{count} {others}", "legendgroup": others, "legendrank": 1001}


def colors(curves: Sequence[Curve]) -> dict[str, str]:
    """The colour of each curve by its name, one in all figures; grey where there are more curves than colours."""
    own = {curve.name: color(index) for index, curve in enumerate(leading(curves))}
    return {curve.name: own.get(curve.name, OTHERS) for curve in curves}


def labels(rows: Sequence[Row]) -> list[str]:
    """Names for an axis; a point that is not `ok` says so."""
    return [
        escape(name if row["status"] == "ok" else f"{name} ({row['status']})")
        for name, row in zip(names(rows), rows, strict=True)
    ]


def names_axis(axis_labels: list[str]) -> Dict:
    ends = [len(axis_labels) - 0.5, -0.5]
    return {"type": "category", "categoryorder": "array", "categoryarray": axis_labels, "range": ends}


def bars_height(rows: Sequence[Row], each: int = 34) -> int:
    return 130 + each * len(rows)


def panels(count: int, above: int = 120) -> Dict:
    """The layout of panels side by side, `above` pixels of it for what stands around them."""
    columns = min(PANELS_A_ROW, count)
    lines = -(-count // columns)
    grid = {"rows": lines, "columns": columns, "pattern": "independent", "xgap": 0.12, "ygap": 0.35}
    return {"height": above + 260 * lines, "grid": grid, "annotations": []}


def heading(panel: str, text: str) -> Dict:
    """What stands above a panel."""
    place = {"xref": f"x{panel} domain", "yref": f"y{panel} domain", "x": 0, "y": 1}
    return {"text": text, **place, "xanchor": "left", "yanchor": "bottom", "align": "left", "showarrow": False}


def axes(panel: str) -> Dict:
    return {"xaxis": f"x{panel}", "yaxis": f"y{panel}"}


def doubt(value: Interval) -> str:
    """The mark of a value that its interval tells too little of."""
    return "" if value.tells else f" {UNSURE}"


def within(value: Interval, share: bool = False) -> str:
    if value.lo is None or value.hi is None:
        return ""
    bounds = span(value) if share else f"[{number(value.lo)}, {number(value.hi)}]"
    return f"{bounds}, {value.kind}"


def windows(rows: Sequence[Row]) -> str:
    steps = sorted({row["window_steps"] for row in rows if row["status"] == "ok" and row["window_steps"]})
    return f"Window: {extent(steps)} measured steps a run, without warm-up and sampled steps."


def extent(values: Sequence[Any]) -> str:
    """`20`, or `20 to 40`, of sorted values."""
    if not values:
        return "no"
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
