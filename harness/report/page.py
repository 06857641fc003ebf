"""One HTML page that needs nothing but itself: style, figures' data and plotly.js are inside.

Its content policy forbids every request, so that a page from a stranger's study cannot call home.
"""

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
from harness.report.bandwidth import bandwidth_figures
from harness.report.figures import Figure, figures
from harness.report.words import ran, tally, unit

HERE = Path(__file__).parent
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
    findings = document["headline"]
    many = " many" * (len(findings) > 4)
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(document["time"]))
    return Template((HERE / "page.html").read_text()).substitute(
        title=escape(f"Scaling study {document['study']}"),
        style=(HERE / "style.css").read_text(),
        findings=f'<ul class="findings{many}">{_items(findings)}</ul>',
        about=escape(f"{tally(rows)}. Written {written}."),
        ran=f'<p class="about">{escape(" · ".join(ran(rows)))}</p>' * bool(rows),
        points_note=escape(_points_note(rows)),
        points=tables.html(rows),
        warnings=f'<ul class="note">{_items(document["warnings"])}</ul>' * bool(document["warnings"]),
        figures="\n".join(map(_figure, [*figures(rows, curves), *bandwidth_figures(rows, gathered)])),
        provenance=_provenance(rows),
        footer=escape("All numbers, with more columns: points.csv beside this page. GB are 10⁹ bytes, GiB 2³⁰."),
        plotly=get_plotlyjs(),
        script=(HERE / "page.js").read_text(),
    )


def _figure(figure: Figure) -> str:
    # JSON has "<" only inside strings; written as an escape it can neither end the script nor open a comment.
    told = {"data": _drawn(figure.data), "layout": figure.layout}
    data = json.dumps(told, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    name = f"figure-{figure.key}"
    return (
        f'<figure aria-labelledby="{name}-title"><figcaption><h2 id="{name}-title">{escape(figure.title)}</h2>'
        f"<p>{escape(figure.caption)}</p></figcaption>"
        f'<div class="plot" id="{name}" role="img" aria-labelledby="{name}-title" '
        f'style="min-height:{figure.layout["height"]}px"></div>'
        f'<script type="application/json" id="{name}-data">{data}</script></figure>'
    )


def _drawn(value: Any) -> Any:
    """A figure's data in six digits, more than can be told apart in it; points.csv has all of them."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _drawn(part) for key, part in value.items()}
    return [_drawn(part) for part in value] if isinstance(value, list) else value


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
