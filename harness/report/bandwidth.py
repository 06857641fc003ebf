"""Figures of the benchmark of collectives, with what training steps achieve on its curves: a panel an operation."""

from collections.abc import Callable, Sequence
from html import escape

from harness.analysis.attainable import Bandwidth, InStep
from harness.analysis.points import Gathered
from harness.analysis.read import Record
from harness.analysis.summary import Row
from harness.config import OPERATIONS
from harness.plan.benchmark import GRAPHED_BYTES, size_text
from harness.report.figures import COMMUNICATION, PANELS_A_ROW, SERIES, SYMBOLS, Dict, Figure
from harness.report.words import names, number, percent

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

    data, panels = _lines(curves, short, line), _panels(curves)
    compared = {slug: mine for slug, all_ in in_steps.items() if (mine := [e for e in all_ if e.op in panels])}
    for index, (slug, operations) in enumerate(compared.items()):
        data += _symbols(operations, short[slug], SYMBOLS[index % len(SYMBOLS)], panels)
    layout = _layout(panels, "busbw (GB/s)", {"rangemode": "tozero"})
    caption = (
        "Lines: operations alone, fp32, S by nccl-tests' convention; median of batches of calls, each on the slowest "
        f"rank{_dotted(curves)}. {_in_place(curves)}"
    )
    if compared:
        caption += (
            " Symbols: operations of 64 KiB and more in training steps, median over sampled steps, waiting for the "
            f"last rank included; hover for the share of what the curves attain {COMPARED_AT}."
        )
    return Figure("bandwidth", "Bus bandwidth against size", caption, data, layout)


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
        f"{_dotted(few)}."
    )
    return Figure("small-operations", "Time of small operations", caption, data, layout)


def _dotted(curves: Sequence[Bandwidth]) -> str:
    return ", and dotted inside CUDA graphs" if any(entry["graph"] for entry in _entries(curves)) else ""


def _lines(
    curves: Sequence[Bandwidth], short: dict[str, str], value: Callable[[Record], tuple[float, str]]
) -> list[Dict]:
    """A line for each curve, operation and way to launch it; a curve has one colour and one place in the legend."""
    panels, data = _panels(curves), list[Dict]()
    for index, curve in enumerate(curves):
        shown = False
        for op, panel in panels.items():
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
                        "name": escape(short[curve.slug]),
                        "legendgroup": curve.slug,
                        "showlegend": not shown,
                        "line": {
                            "color": f"var(--series-{index % SERIES + 1})",
                            "width": 2,
                            "dash": "dot" if graph else "solid",
                        },
                        "marker": {"size": 4},
                        "customdata": words,
                        "hovertemplate": "%{customdata}<extra></extra>",
                        **_axes(panel),
                    }
                )
                shown = True
    return data


def _symbols(operations: Sequence[InStep], name: str, symbol: str, panels: dict[str, str]) -> list[Dict]:
    """A point's in-step operations, in their panels."""
    data: list[Dict] = []
    for op, panel in panels.items():
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
            symbols |= {"y": [each.busbw / 1e9 for each in mine], "name": f"{escape(name)}, in a step"}
            symbols |= {"legendgroup": f"{name}, in a step", "showlegend": not data}
            symbols["marker"] = {"symbol": f"{symbol}-open", "size": 10, "color": "var(--text)"}
            symbols |= {"customdata": words, "hovertemplate": "%{customdata}<extra></extra>"}
            data.append(symbols | _axes(panel))
    return data


def _layout(panels: dict[str, str], title: str, vertical: Dict) -> Dict:
    """A panel an operation, its name above it; sizes on a log axis."""
    columns = min(PANELS_A_ROW, len(panels))
    lines = -(-len(panels) // columns)
    layout: Dict = {
        "height": 180 + 260 * lines,
        "grid": {"rows": lines, "columns": columns, "pattern": "independent", "xgap": 0.12, "ygap": 0.35},
        "annotations": [],
        # above the panels' names
        "margin": {"l": 64, "r": 24, "t": 100, "b": 56},
        "legend": {"y": 1 + 30 / (260 * lines)},
    }
    powers = [2**power for power in range(10, 41, 6)]
    for index, (op, panel) in enumerate(panels.items()):
        layout[f"xaxis{panel}"] = {"type": "log", "tickvals": powers, "ticktext": [size_text(size) for size in powers]}
        layout[f"yaxis{panel}"] = vertical | ({} if index % columns else {"title": {"text": title}})
        above: Dict = {"text": f"<b>{COMMUNICATION[op]}</b>", "xref": f"x{panel} domain", "yref": f"y{panel} domain"}
        above |= {"x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "showarrow": False}
        layout["annotations"].append(above)
    return layout


def _in_place(curves: Sequence[Bandwidth]) -> str:
    """Which operations read and write one buffer, as a sentence."""
    there = [op for op in _panels(curves) if any(e["in_place"] for e in _entries(curves) if e["op"] == op)]
    return f"In place: {', '.join(COMMUNICATION[op] for op in there)}." if there else "None in place."


def _panels(curves: Sequence[Bandwidth]) -> dict[str, str]:
    """The operations that were timed, each with the number of its axes as plotly writes it."""
    there = {entry["op"] for entry in _entries(curves)}
    return {op: str(index + 1) if index else "" for index, op in enumerate(op for op in OPERATIONS if op in there)}


def _axes(panel: str) -> Dict:
    return {"xaxis": f"x{panel}", "yaxis": f"y{panel}"}


def _entries(curves: Sequence[Bandwidth]) -> list[Record]:
    return [entry for curve in curves for entry in curve.entries]
