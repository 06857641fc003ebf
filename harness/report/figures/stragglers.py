"""Which rank the others wait for."""

from collections import Counter
from collections.abc import Sequence

from harness.analysis.summary import Row
from harness.report.figures.figure import (
    INSIDE,
    Dict,
    Figure,
    axes,
    bars_height,
    heading,
    labels,
    names_axis,
    of_rows,
    windows,
)
from harness.report.words import NONE, milliseconds, percent


def stragglers(rows: Sequence[Row]) -> Figure:
    """Three panels over one axis of points of several ranks: who came last, who was slowest, and the waiting."""
    named = labels(rows)
    last = [_share(row["last_rank"], row["last_share"]) for row in rows]
    slow = [_share(row["slowest_rank"], row["slowest_by"]) for row in rows]
    waits = [NONE if row["exposed_wait_s_p50"] is None else _waiting(row) for row in rows]
    shown = (
        ("", "last in collectives", [row["last_share"] for row in rows], last),
        ("2", "slowest in steps, by", [row["slowest_by"] for row in rows], slow),
        ("3", "waiting in a step (ms)", [_milliseconds(row["exposed_wait_s_p50"]) for row in rows], waits),
    )
    layout: Dict = {
        "height": bars_height(rows, 28) + 30,
        "showlegend": False,
        "grid": {"rows": 1, "columns": 3, "pattern": "independent", "xgap": 0.06},
        "annotations": [],
        "margin": {"l": 64, "r": 24, "t": 56, "b": 40},
    }
    data: list[Dict] = []
    for index, (panel, title, values, words) in enumerate(shown):
        bars: Dict = {"type": "bar", "orientation": "h", "y": named, "x": values, "text": words}
        bars |= {"textposition": "auto", "insidetextfont": INSIDE, "cliponaxis": False}
        bars |= {"marker": {"color": f"var(--series-{index + 1})"}}
        data.append(bars | {"hovertemplate": "%{text}<extra>%{y}</extra>", **axes(panel)})
        # a bar without length has no text
        flat = [(name, text) for name, value, text in zip(named, values, words, strict=True) if not value]
        texts: Dict = {"type": "scatter", "mode": "text", "x": [0] * len(flat), "y": [name for name, _ in flat]}
        texts |= {"text": [text for _, text in flat], "textposition": "middle right", "hoverinfo": "skip"}
        data += [texts | axes(panel)] * bool(flat)
        layout[f"xaxis{panel}"] = {"rangemode": "tozero"} | ({"tickformat": ".0%"} if index < 2 else {})
        layout[f"yaxis{panel}"] = names_axis(named) | ({"matches": "y", "showticklabels": False} if index else {})
        layout["annotations"].append(heading(panel, f"<b>{title}</b>"))
    caption = (
        "Left: the rank that came last in the largest share of the synchronising collectives of its sampled steps, and "
        "that share; with n ranks alike it would be 1 ÷ n. Middle: the rank that was slowest in most measured steps, "
        "and how much longer these took on it than on the fastest, median. Right: waiting for the last rank that no "
        f"computation covers, median over sampled steps. {windows(rows)} Where several ranks have that share, or "
        f"none was told, there is a dash. One bar a run, no baseline.{_often(rows)}"
    )
    columns = ("last_rank", "last_share", "slowest_rank", "slowest_by", "exposed_wait_s_p50", "wait_s_p50")
    numbers = of_rows(rows, *columns, "straggler_rank", "straggler_host")
    return Figure("stragglers", "Who the others wait for", caption, numbers, data, layout)


def _share(rank: int | None, share: float | None) -> str:
    return NONE if rank is None or share is None else f"rank {rank}: {percent(share)}"


def _waiting(row: Row) -> str:
    words = f"{milliseconds(row['exposed_wait_s_p50'])} ms"
    return words if row["straggler_rank"] is None else f"{words}; rank {row['straggler_rank']} stands out"


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _often(rows: Sequence[Row]) -> str:
    """Whether one rank came last most often in several runs."""
    lasts = Counter(row["last_rank"] for row in rows if row["last_rank"] is not None)
    [(rank, times), *_] = lasts.most_common(1) or [(None, 0)]
    return f" Rank {rank} came last most often in {times} of {len(rows)} runs." if times > 1 else ""
