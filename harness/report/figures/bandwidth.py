"""Figures of the benchmark of collectives, with what training steps achieve on its curves: a panel an operation."""

from collections.abc import Callable, Sequence
from html import escape

from harness.analysis.attainable import Bandwidth, InStep
from harness.analysis.points import Gathered
from harness.analysis.read import Record
from harness.analysis.summary import Row
from harness.config import OPERATIONS
from harness.plan.benchmark import GRAPHED_BYTES, size_text
from harness.quantities import number
from harness.report.figures.figure import (
    COMMUNICATION,
    OTHERS,
    SERIES,
    SYMBOLS,
    Cell,
    Dict,
    Figure,
    Numbers,
    axes,
    color,
    heading,
    panels,
    place,
)
from harness.report.words import names, percent

COMPARED_AT = "among as many ranks in the same places, with the same backend, device, NCCL and NCCL environment"


def bandwidth_figures(rows: Sequence[Row], gathered: Gathered) -> list[Figure]:
    """Bus bandwidth against size, and the time of small operations, where the study has timed collectives alone."""
    short = {row["slug"]: name for row, name in zip(rows, names(rows), strict=True)}
    curves = [curve for curve in gathered.bandwidths if curve.slug in short and curve.entries]
    if not curves:
        return []
    return [
        busbw(curves, {slug: gathered.in_steps[slug] for slug in short if slug in gathered.in_steps}, short),
        *([small(curves, short)] if any(entry["bytes"] <= GRAPHED_BYTES for entry in _entries(curves)) else []),
    ]


def busbw(curves: Sequence[Bandwidth], in_steps: dict[str, list[InStep]], short: dict[str, str]) -> Figure:
    """Bus bandwidth against size; in-step operations are points."""

    def line(entry: Record) -> tuple[float, str]:
        return entry["busbw"] / 1e9, f"{number(entry['busbw'] / 1e9, 3)} GB/s"

    data, there = _lines(curves, short, line), _panels(curves)
    compared = {slug: mine for slug, all_ in in_steps.items() if (mine := [e for e in all_ if e.op in there])}
    for index, (slug, operations) in enumerate(compared.items()):
        shown = place(index, len(compared), escape(short[slug]), ", in a step")
        symbols = _symbols(operations, short[slug], index, there, shown)
        data += [trace | {"showlegend": not position and index <= SERIES} for position, trace in enumerate(symbols)]
    layout = _layout(there, "busbw (GB/s)", {"rangemode": "tozero"})
    caption = (
        "Lines: operations alone, fp32, S by nccl-tests' convention; median of batches of calls, each on the slowest "
        f"rank{_dotted(curves)}. {_in_place(curves)} One line a run and operation, no baseline."
    )
    if compared:
        caption += (
            " Symbols: operations of 64 KiB and more in training steps, median over sampled steps, waiting for the "
            f"last rank included; hover for the share of what the curves attain {COMPARED_AT}."
        )
    return Figure("bandwidth", "Bus bandwidth against size", caption, _numbers(curves, compared), data, layout)


def small(curves: Sequence[Bandwidth], short: dict[str, str]) -> Figure:
    """The time of operations so small that launching them counts; inside CUDA graphs the host launches many at once."""

    def line(entry: Record) -> tuple[float, str]:
        return entry["duration_s"] * 1e6, f"{number(entry['duration_s'] * 1e6, 3)} µs"

    few = [
        Bandwidth(curve.slug, curve.setting, [entry for entry in curve.entries if entry["bytes"] <= GRAPHED_BYTES])
        for curve in curves
    ]
    data = _lines(few, short, line)
    layout = _layout(_panels(few), "time (µs)", {"type": "log"})
    caption = (
        f"Operations of at most {size_text(GRAPHED_BYTES)} alone: one of many that the host launches one after another"
        f"{_dotted(few)}. Median of batches of calls; one line a run and operation, no baseline."
    )
    return Figure("small-operations", "Time of small operations", caption, _numbers(few, {}), data, layout)


def _dotted(curves: Sequence[Bandwidth]) -> str:
    return ", and dotted inside CUDA graphs" if any(entry["graph"] for entry in _entries(curves)) else ""


def _lines(
    curves: Sequence[Bandwidth], short: dict[str, str], value: Callable[[Record], tuple[float, str]]
) -> list[Dict]:
    """A line for each curve, operation and way to launch it; a curve has one colour and one place in the legend."""
    there, data = _panels(curves), list[Dict]()
    for index, curve in enumerate(curves):
        shown = index > SERIES
        for op, panel in there.items():
            for graph in (False, True):
                mine = [entry for entry in curve.entries if (entry["op"], entry["graph"]) == (op, graph)]
                if not mine:
                    continue
                words = [
                    f"{escape(short[curve.slug])}<br>{COMMUNICATION[op]}{', CUDA graph' * graph}, "
                    f"{size_text(entry['bytes'])}: {value(entry)[1]}"
                    for entry in mine
                ]
                data.append(
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "x": [entry["bytes"] for entry in mine],
                        "y": [value(entry)[0] for entry in mine],
                        **place(index, len(curves), escape(short[curve.slug])),
                        "showlegend": not shown,
                        "line": {
                            "color": color(index) if index < SERIES else OTHERS,
                            "width": 2,
                            "dash": "dot" if graph else "solid",
                        },
                        "marker": {"size": 4},
                        "customdata": words,
                        "hovertemplate": "%{customdata}<extra></extra>",
                        **axes(panel),
                    }
                )
                shown = True
    return data


def _symbols(operations: Sequence[InStep], name: str, index: int, there: dict[str, str], shown: Dict) -> list[Dict]:
    """A point's in-step operations, in their panels."""
    data: list[Dict] = []
    for op, panel in there.items():
        mine = [each for each in operations if each.op == op]
        words = []
        for each in mine:
            share = "" if each.alone_s is None else f", {percent(each.alone_s / each.duration_s)} of attainable"
            words.append(
                f"{escape(name)}<br>{COMMUNICATION[op]} in {escape(each.group)} of {each.group_size}, "
                f"{size_text(each.bytes)}: {number(each.busbw / 1e9, 3)} GB/s{share}"
            )
        if mine:
            symbols: Dict = {"type": "scatter", "mode": "markers", "x": [each.bytes for each in mine]}
            symbols |= {"y": [each.busbw / 1e9 for each in mine]} | shown
            symbol, ink = (SYMBOLS[index], "var(--text)") if index < SERIES else ("circle", OTHERS)
            symbols["marker"] = {"symbol": f"{symbol}-open", "size": 10, "color": ink}
            symbols |= {"customdata": words, "hovertemplate": "%{customdata}<extra></extra>"}
            data.append(symbols | axes(panel))
    return data


def _layout(there: dict[str, str], title: str, vertical: Dict) -> Dict:
    """A panel an operation, its name above it; sizes on a log axis."""
    layout = panels(len(there), above=180)
    columns, lines = layout["grid"]["columns"], layout["grid"]["rows"]
    # above the panels' names
    layout |= {"margin": {"l": 64, "r": 24, "t": 100, "b": 56}, "legend": {"y": 1 + 30 / (260 * lines)}}
    powers = [2**power for power in range(10, 41, 6)]
    for index, (op, panel) in enumerate(there.items()):
        layout[f"xaxis{panel}"] = {"type": "log", "tickvals": powers, "ticktext": [size_text(size) for size in powers]}
        layout[f"yaxis{panel}"] = vertical | ({} if index % columns else {"title": {"text": title}})
        layout["annotations"].append(heading(panel, f"<b>{COMMUNICATION[op]}</b>"))
    return layout


def _in_place(curves: Sequence[Bandwidth]) -> str:
    """Which operations read and write one buffer, as a sentence."""
    there = [op for op in _panels(curves) if any(e["in_place"] for e in _entries(curves) if e["op"] == op)]
    return f"In place: {', '.join(COMMUNICATION[op] for op in there)}." if there else "None in place."


def _panels(curves: Sequence[Bandwidth]) -> dict[str, str]:
    """The operations that were timed, each with the number of its axes as plotly writes it."""
    there = {entry["op"] for entry in _entries(curves)}
    return {op: str(index + 1) if index else "" for index, op in enumerate(op for op in OPERATIONS if op in there)}


def _numbers(curves: Sequence[Bandwidth], in_steps: dict[str, list[InStep]]) -> Numbers:
    """Operations alone, then those in training steps, which have no graph but an `alone_s` where curves tell of it."""
    heads = ("slug", "where", "op", "graph", "bytes", "group_size", "duration_s", "busbw", "alone_s")
    alone: list[list[Cell]] = [
        [curve.slug, "alone", *(e[name] for name in heads[2:-1]), None] for curve in curves for e in curve.entries
    ]
    trained: list[list[Cell]] = [
        [slug, "in a step", e.op, None, e.bytes, e.group_size, e.duration_s, e.busbw, e.alone_s]
        for slug, operations in in_steps.items()
        for e in operations
    ]
    return Numbers(heads, alone + trained)


def _entries(curves: Sequence[Bandwidth]) -> list[Record]:
    return [entry for curve in curves for entry in curve.entries]
