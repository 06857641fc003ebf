"""One HTML page that needs nothing but itself: style, figures' data and plotly.js are inside.

Its content policy forbids every request, so that a page from a stranger's study cannot call home.
"""

import base64
import functools
import gzip
import json
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from harness.analysis.efficiency import Curve
from harness.analysis.points import Gathered
from harness.analysis.summary import Row
from harness.report import tables
from harness.report.figures import figures
from harness.report.figures.figure import Figure
from harness.report.filters import filters
from harness.report.words import FIRST, ran, tally, unit

HERE = Path(__file__).parent
# Pixels from which on a figure scrolls in a window of its own.
TALL = 2400
PROVENANCE = {
    "device_name": "device",
    "processor": "processor",
    "cores": "cores of a host",
    "threads": "threads of a rank",
    "backend": "backend",
    "git_sha": "code",
    "torch": "torch",
    "cuda": "CUDA",
    "nccl_version": "NCCL",
    "driver": "driver",
}


def page(document: dict[str, Any], curves: Sequence[Curve], gathered: Gathered) -> str:
    """The whole page of a report's document. Everything from the study is escaped."""
    rows: list[Row] = document["points"]
    shown = figures(document, curves, gathered)
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(document["time"]))
    return Template((HERE / "page.html").read_text()).substitute(
        title=escape(f"Scaling study {document['study']}"),
        style=(HERE / "style.css").read_text(),
        findings=_findings(document["headline"]),
        about=escape(f"{tally(rows)}. Written {written}."),
        ran=f'<p class="about">{escape(" · ".join(ran(rows)))}</p>' * bool(rows),
        contents=_contents(shown),
        points_note=escape(_points_note(rows)),
        filters=filters(rows),
        points=tables.html(rows),
        warnings=f'<ul class="note">{_items(document["warnings"])}</ul>' * bool(document["warnings"]),
        figures="\n".join(map(_figure, shown)),
        provenance=_provenance(rows),
        footer=escape("All numbers, with more columns: points.csv beside this page. GB are 10⁹ bytes, GiB 2³⁰."),
        plotly=_plotly(),
        script=(HERE / "page.js").read_text(),
    )


@functools.cache
def _plotly() -> str:
    """plotly.js, packed: plain it would be most of the page, and leave a large study no room."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _findings(sentences: Sequence[str]) -> str:
    """The first sentences, and how many more are behind them."""
    first = f'<ul class="findings">{_items(sentences[:FIRST])}</ul>'
    rest = sentences[FIRST:]
    more = f'<details id="more" class="more"><summary>{len(rest)} more</summary><ul>{_items(rest)}</ul></details>'
    return first + more * bool(rest)


def _contents(shown: Sequence[Figure]) -> str:
    """Links to everything on the page."""
    places = [(f"figure-{figure.key}", figure.title) for figure in shown]
    places += [("points", "Points"), ("provenance", "Where it ran")]
    return "".join(f'<li><a href="#{place}">{escape(title)}</a></li>' for place, title in places)


def _figure(figure: Figure) -> str:
    """Its words, itself, and its numbers, which become a table or a CSV file when somebody asks."""
    name = f"figure-{figure.key}"
    if figure.layout is None:
        drawn = _scroll(name, figure.html)
    else:
        described = f'aria-labelledby="{name}-title" aria-describedby="{name}-caption"'
        drawn = (
            f'<div class="plot" id="{name}-plot" role="img" {described} '
            f'style="{_heights(figure.layout)}"></div>'
            + _data(f"{name}-plot-data", {"data": _drawn(figure.data), "layout": figure.layout})
        )
        drawn = _scroll(name, drawn) if figure.layout["height"] > TALL else drawn
    numbers = {"heads": figure.numbers.heads, "lines": figure.numbers.lines}
    return (
        f'<figure id="{name}" aria-labelledby="{name}-title"><figcaption><h2 id="{name}-title">{escape(figure.title)}'
        f'</h2><p id="{name}-caption">{escape(figure.caption)}</p></figcaption>{drawn}'
        f'<div class="numbers"><button type="button" class="csv" data-name="{figure.key}" '
        f'aria-label="CSV: {escape(figure.title)}">CSV</button><details id="{name}-table"><summary>As a table'
        f'<span class="unseen">: {escape(figure.title)}</span></summary></details></div>'
        + _data(f"{name}-numbers", numbers)
        + "</figure>"
    )


def _heights(layout: dict[str, Any]) -> str:
    """Of a figure on a wide page and on a narrow one, where its panels stand below each other."""
    wide = layout["height"]
    narrow = wide * len(layout["annotations"]) // layout["grid"]["rows"] if "grid" in layout else wide
    return f"--wide:{wide}px;--narrow:{narrow}px"


def _drawn(value: Any) -> Any:
    """A figure's data in six digits, more than can be told apart in it; points.csv has all of them."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _drawn(part) for key, part in value.items()}
    return [_drawn(part) for part in value] if isinstance(value, list) else value


def _scroll(name: str, html: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}-title">{html}</div>'


def _data(name: str, value: Any) -> str:
    # JSON has "<" only inside strings; written as an escape it can neither end the script nor open a comment.
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _points_note(rows: Sequence[Row]) -> str:
    return (
        f"Small in brackets: 95 % interval within the run. Efficiency: tokens/s per {unit(rows)[:-1]} (weak) or "
        f"{unit(rows)[:-1]}-seconds of a step (strong) against the named baseline. Communication and step times "
        "are medians. A dash: not known, never zero."
    )


def _provenance(rows: Sequence[Row]) -> str:
    """Each fact's distinct values over the points."""
    lines = []
    for key, title in PROVENANCE.items():
        values = dict.fromkeys(
            f"{row[key]} (with uncommitted changes)" if key == "git_sha" and row["git_dirty"] else str(row[key])
            for row in rows
            # On CPUs the device is the processor.
            if row[key] is not None and (key, row[key]) != ("processor", row["device_name"])
        )
        if values:
            lines.append(f"<dt>{title}</dt><dd>{escape(', '.join(values))}</dd>")
    return "\n".join(lines)


def _items(texts: Sequence[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in texts)
