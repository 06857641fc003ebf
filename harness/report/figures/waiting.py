"""Which ranks the others wait for, rank by rank."""

from collections.abc import Sequence
from html import escape
from typing import Any

from harness.analysis.efficiency import Curve
from harness.analysis.summary import Row
from harness.report.figures.figure import (
    OTHERS,
    SYMBOLS,
    Cell,
    Dict,
    Figure,
    Numbers,
    colors,
    extent,
    folded,
    leading,
)
from harness.report.words import milliseconds, names, percent

MARKS = 2048
"""Of the whole figure: it can still be read, and the page of a thousand runs stays small."""

A_LINE = 6
"""Names of a line of the legend, which would else take the marks' place."""

FEW = 16
"""Ranks up to which each has a tick of its own."""


def waiting(entries: Sequence[dict[str, Any]], curves: Sequence[Curve], rows: Sequence[Row]) -> Figure | None:
    """A mark a rank and run, of each curve at the largest scale whose runs told; `entries` are runs' foremost ranks.

    Repeats are not averaged: they need not have run on the same hosts.
    """
    told, short = {entry["slug"]: entry for entry in entries}, _short(rows)
    runs: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for each in curves:
        for scale in reversed(each.scales):
            if mine := [told[slug] for slug in scale.slugs if slug in told]:
                runs[each.name] = scale.label, mine
                break
    shown = [entry for _, mine in runs.values() for entry in mine]
    if not shown:
        return None
    most = max(1, MARKS // len(shown))
    inks = colors(curves)
    symbols = {each.name: symbol for each, symbol in zip(leading(curves), SYMBOLS, strict=False)}
    others = [curve for curve in runs if inks[curve] == OTHERS]
    data: list[Dict] = []
    for curve, (label, mine) in sorted(runs.items(), key=lambda run: run[0] not in others):
        causes = [(entry["slug"], cause) for entry in mine for cause in entry["foremost"][:most]]
        marks: Dict = {"type": "scatter", "mode": "markers", "name": escape(label)}
        marks |= {"x": [cause["rank"] for _, cause in causes]}
        marks |= {"y": [max(0.0, 1e3 * cause["caused_s"]) for _, cause in causes]}
        symbol = symbols.get(curve, SYMBOLS[0])
        marks |= {"marker": {"color": inks[curve], "symbol": symbol, "size": 8, "opacity": 0.8}}
        marks |= {"customdata": [f"{escape(short[slug])}<br>{_words(cause)}" for slug, cause in causes]}
        if curve in others:
            marks |= folded(len(others)) | {"showlegend": curve == others[0]}
        data.append(marks | {"hovertemplate": "%{customdata}<extra></extra>", "cliponaxis": False})
    last = max(rank for entry in shown for rank in (entry["ranks"] - 1, *(c["rank"] for c in entry["foremost"])))
    highest = max(max(trace["y"]) for trace in data)
    ticks: Dict = {"dtick": 1} if last < FEW else {"tickformat": ",d"}
    room = 0.02 * last + 0.2
    places = len(runs) - len(others) + bool(others)
    layout = {
        "height": 420 + 20 * (places // A_LINE),
        "xaxis": {"title": {"text": "rank"}, "range": [-room, last + room], "zeroline": False, **ticks},
        "yaxis": {"title": {"text": "waiting caused (ms of a step)"}, "range": [0, 1.08 * highest or 1]},
        "showlegend": True,
    }
    numbers = _numbers(shown, rows, most)
    return Figure(
        "waiting", "Waiting that each rank causes", _caption(shown, most, bool(others)), numbers, data, layout
    )


def _short(rows: Sequence[Row]) -> dict[str, str]:
    return {row["slug"]: name for row, name in zip(rows, names(rows), strict=True)}


def _words(cause: dict[str, Any]) -> str:
    where = f"rank {cause['rank']}" + (f" on {escape(str(cause['host']))}" if cause["host"] else "")
    seconds = cause["caused_s"]
    kept = f"{milliseconds(abs(seconds))} ms of a step"
    told = f"keeps others waiting {kept}" if seconds >= 0 else f"waits itself, {kept} longer than any other for it"
    share = cause["last_share"]
    last = "" if share is None else f"<br>last in {percent(share)} of its synchronising operations"
    return f"{where} {told}{last}"


def _caption(shown: Sequence[dict[str, Any]], most: int, grey: bool) -> str:
    carried = [min(most, len(entry["foremost"])) for entry in shown]
    among = sorted({entry["ranks"] for entry, count in zip(shown, carried, strict=True) if entry["ranks"] > count})
    left_out = f" Of runs of {extent(among)} ranks only the {max(carried)} that cause most are there." * bool(among)
    return (
        "What a rank causes in a step: the longest that any rank waited for it in collectives, less what it waited "
        "itself, for one that was kept waiting only passes that on; median over the sampled steps. One that waits "
        "longer itself is below zero and drawn at zero. Window: "
        f"{extent(sorted({entry['sampled_steps'] for entry in shown}))} sampled steps a run, which are not among the "
        f"measured ones. Each curve at its largest ok scale that told, one mark a rank and run, repeats not averaged; "
        f"no baseline.{' Grey as in tokens/s: curves that are named where one points at them.' * grey}{left_out}"
    )


def _numbers(shown: Sequence[dict[str, Any]], rows: Sequence[Row], most: int) -> Numbers:
    repeat = {row["slug"]: row["repeat"] for row in rows}
    heads = ("slug", "label", "repeat", "rank", "host", "caused_s", "last_share")
    lines: list[list[Cell]] = [
        [entry["slug"], entry["label"], repeat[entry["slug"]], *(cause[name] for name in heads[3:])]
        for entry in shown
        for cause in entry["foremost"][:most]
    ]
    return Numbers(heads, lines)
