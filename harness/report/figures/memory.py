"""How much memory each point held."""

from collections.abc import Sequence

from harness.analysis.summary import Row
from harness.plan import hardware
from harness.quantities import gibibytes
from harness.report.figures.figure import INSIDE, Dict, Figure, Numbers, bars_height, labels, names_axis, of_rows
from harness.report.words import percent

GIB = 2**30


def memory(rows: Sequence[Row]) -> Figure:
    """A bar a point, and the device's own memory where it is known."""
    named, sizes = labels(rows), [_of_device(row) for row in rows]
    peaks = [row["peak_memory_bytes"] for row in rows]
    shares = [None if size is None else peak / size for peak, size in zip(peaks, sizes, strict=True)]
    words = [
        f"{gibibytes(peak)} GiB" + ("" if share is None else f", {percent(share)}")
        for peak, share in zip(peaks, shares, strict=True)
    ]
    bars: Dict = {"type": "bar", "orientation": "h", "y": named, "x": [peak / GIB for peak in peaks], "text": words}
    bars |= {
        "textposition": "auto",
        "insidetextanchor": "end",
        "insidetextfont": INSIDE,
        "cliponaxis": False,
        "name": "peak",
    }
    bars |= {"marker": {"color": "var(--series-1)"}, "hovertemplate": "%{text}<extra>%{y}</extra>"}
    known = [(name, size) for name, size in zip(named, sizes, strict=True) if size is not None]
    ends: Dict = {"type": "scatter", "mode": "markers", "y": [name for name, _ in known]}
    ends |= {"x": [size / GIB for _, size in known], "name": "the device's memory"}
    ends |= {"marker": {"symbol": "line-ns-open", "size": 14, "color": "var(--text)", "line": {"width": 2}}}
    ends |= {"hovertemplate": "the device has %{x:.4g} GiB<extra>%{y}</extra>"}
    layout = {
        "height": bars_height(rows, 28),
        "xaxis": {"title": {"text": "peak memory (GiB)"}, "rangemode": "tozero"},
        "yaxis": names_axis(named),
        "showlegend": bool(known),
        "legend": {"traceorder": "normal"},
    }
    caption = (
        "The most that any rank held: of its GPU by PyTorch's allocator, the driver's and NCCL's own buffers not among "
        "it. All steps, warm-up included; points that held none yet are left out. "
        + ("Tick: the device's memory as its driver reports it. " if known else "The device's memory is not known. ")
        + "One bar a run, no baseline."
    )
    table = of_rows(rows, "peak_memory_bytes", "device_name")
    ends_of = zip(table.lines, sizes, shares, strict=True)
    numbers = Numbers(
        [*table.heads, "device_memory_bytes", "peak_memory_share"],
        [[*line, size, share] for line, size, share in ends_of],
    )
    return Figure("memory", "Peak memory", caption, numbers, [bars, *([ends] * bool(known))], layout)


def _of_device(row: Row) -> int | None:
    device = hardware.find(row["device_name"]) if row["device_name"] else None
    return device.memory_bytes if device else None
