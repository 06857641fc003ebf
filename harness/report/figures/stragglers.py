"""Which rank the others wait for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.summary import Row
from harness.quantities import NONE
from harness.report.figures.figure import (
    INSIDE,
    Dict,
    Figure,
    axes,
    bars_height,
    color,
    heading,
    labels,
    names_axis,
    of_rows,
    windows,
)
from harness.report.words import milliseconds, percent


@dataclass(frozen=True)
class Panel:
    """One column of points.csv: a share that belongs to a rank, named in the column `rank`, or seconds."""

    column: str
    title: str
    convention: str
    rank: str | None = None

    def value(self, row: Row) -> float | None:
        value: float | None = row[self.column]
        return value if value is None or self.rank else 1e3 * value

    def words(self, row: Row) -> str:
        value = row[self.column]
        if value is None:
            return NONE
        if self.rank:
            return f"rank {row[self.rank]}: {percent(value)}"
        named = "" if row["straggler_rank"] is None else f"; rank {row['straggler_rank']} stands out"
        return f"{milliseconds(value)} ms{named}"


PANELS = (
    Panel(
        "last_share",
        "last in collectives",
        "the rank that came last in the largest share of the synchronising collectives of its sampled steps, and that "
        "share; were all of n ranks alike it would be 1 ÷ n",
        "last_rank",
    ),
    Panel(
        "slowest_by",
        "slowest in steps",
        "the rank that was slowest in most measured steps, and how much longer these took on it than on the fastest, "
        "median",
        "slowest_rank",
    ),
    Panel(
        "exposed_wait_s_p50",
        "waiting in a step",
        "for the last rank, where no computation covers it, median over ranks, then over sampled steps",
    ),
)


def stragglers(rows: Sequence[Row]) -> Figure | None:
    """Who came last, who was slowest, and the waiting: panels over one axis of points of several ranks, as far as
    their runs told of it."""
    rows = [row for row in rows if row["gpus"] > 1 and any(row[panel.column] is not None for panel in PANELS)]
    shown = [panel for panel in PANELS if any(row[panel.column] is not None for row in rows)]
    if not shown:
        return None
    named = labels(rows)
    layout: Dict = {
        "height": bars_height(rows, 28) + 30,
        "showlegend": False,
        "grid": {"rows": 1, "columns": len(shown), "pattern": "independent", "xgap": 0.08},
        "annotations": [],
        "margin": {"l": 64, "r": 24, "t": 56, "b": 40},
    }
    data: list[Dict] = []
    for index, panel in enumerate(shown):
        number = str(index + 1) if index else ""
        values, words = [panel.value(row) for row in rows], [panel.words(row) for row in rows]
        bars: Dict = {"type": "bar", "orientation": "h", "y": named, "x": values, "text": words}
        bars |= {"textposition": "auto", "insidetextfont": INSIDE, "cliponaxis": False}
        bars |= {"marker": {"color": color(index)}, "hovertemplate": "%{text}<extra>%{y}</extra>"}
        data.append(bars | axes(number))
        # a bar without length has no text
        flat = [(name, text) for name, value, text in zip(named, values, words, strict=True) if not value]
        texts: Dict = {"type": "scatter", "mode": "text", "x": [0] * len(flat), "y": [name for name, _ in flat]}
        texts |= {"text": [f"\u00a0{text}" for _, text in flat], "textposition": "middle right", "hoverinfo": "skip"}
        data += [texts | axes(number)] * bool(flat)
        ticks = {"tickformat": ".2~%"} if panel.rank else {"ticksuffix": " ms"}
        layout[f"xaxis{number}"] = {"rangemode": "tozero", "nticks": 5, **ticks}
        layout[f"yaxis{number}"] = names_axis(named) | ({"matches": "y", "showticklabels": False} if index else {})
        layout["annotations"].append(heading(number, f"<b>{panel.title}</b>"))
    conventions = " ".join(f"{panel.title.capitalize()}: {panel.convention}." for panel in shown)
    unknown = any(row[panel.column] is None for panel in shown for row in rows)
    caption = (
        f"{conventions} {windows(rows)} One bar a run, no baseline."
        + " A dash: not known, or several ranks have that share." * unknown
        + _often(rows)
    )
    columns = [name for panel in PANELS for name in (panel.rank, panel.column) if name]
    numbers = of_rows(rows, *columns, "wait_s_p50", "straggler_rank", "straggler_host")
    return Figure("stragglers", "Who the others wait for", caption, numbers, data, layout)


def _often(rows: Sequence[Row]) -> str:
    """Whether one rank came last most often in several runs."""
    lasts = Counter(row["last_rank"] for row in rows if row["last_rank"] is not None)
    [(rank, times), *_] = lasts.most_common(1) or [(None, 0)]
    return f" Rank {rank} came last most often in {times} of {len(rows)} runs." if times > 1 else ""
