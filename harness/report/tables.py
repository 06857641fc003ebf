"""The points as a table: on the page, in Markdown, in a terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from harness.analysis.intervals import Interval
from harness.analysis.summary import Row
from harness.config import OPERATIONS
from harness.printable import printable
from harness.quantities import gibibytes, gigabytes, loss, number
from harness.report.filters import FILTERED
from harness.report.words import FIRST, TOO_WIDE, UNSURE, milliseconds, names, percent, ran, span, unit

TERMINAL = ("tokens_per_s", "tokens_per_s_gpu", "efficiency", "step_s_p50", "mfu", "all_reduce_s_p50")
NARROW = 24
"""Characters of a line that a point's name keeps in a terminal, before a column of numbers goes."""
STYLES = {"ok": "green", "running": "cyan", "pending": "dim", "queued": "dim"}


@dataclass(frozen=True)
class Column:
    """A column of numbers: its head with the unit, its key, how a value reads, and what stands small beneath it.

    `behind` it stands what a table without small print has of that.
    """

    head: str
    key: str
    read: Callable[[float | None], str]
    small: Callable[[Row], str] = lambda row: ""
    behind: Callable[[Row], str] = lambda row: ""

    def text(self, row: Row) -> str:
        divides = self.key == "efficiency" and row["efficiency"] is not None and row["label"] == row["baseline"]
        return "baseline" if divides else self.read(row[self.key])

    def line(self, row: Row) -> str:
        return f"{self.text(row)} {self.behind(row)}".rstrip() if row[self.key] is not None else self.text(row)

    def beneath(self, row: Row) -> str:
        return "" if row[self.key] is None else self.small(row)


COLUMNS = (
    Column("tokens/s", "tokens_per_s", number, lambda row: _rate_span(row), lambda row: _rate_doubt(row)),
    Column("tokens/s/{one}", "tokens_per_s_gpu", number),
    Column("efficiency", "efficiency", percent, lambda row: _baseline(row), lambda row: _bounds(row)),
    Column("step p50 (ms)", "step_s_p50", milliseconds, lambda row: f"p95 {milliseconds(row['step_s_p95'])}"),
    Column("MFU", "mfu", percent),
    Column("all-reduce (ms)", "all_reduce_s_p50", milliseconds, lambda row: _busbw(row)),
    Column("all-gather (ms)", "all_gather_s_p50", milliseconds, lambda row: _of_attainable(row, "all_gather")),
    Column(
        "reduce-scatter (ms)", "reduce_scatter_s_p50", milliseconds, lambda row: _of_attainable(row, "reduce_scatter")
    ),
    Column(
        "goodput (tokens/s)", "goodput_tokens_per_s", number, lambda row: f"{percent(row['goodput_fraction'])} of time"
    ),
    Column("peak memory (GiB)", "peak_memory_bytes", gibibytes),
    Column("last loss", "loss_last", loss),
)
ALONE = tuple(Column(f"{op} (GB/s)", f"{op}_peak_busbw", gigabytes) for op in OPERATIONS)


def table(document: dict[str, Any]) -> RenderableType:
    """A report's document for a terminal: the first of its headline, what the points did, the points, their doubts."""
    told = document["headline"][:FIRST]
    if more := len(document["headline"]) - len(told):
        told.append(f"… and {more} more in {document['paths']['summary']}")
    # Text, not str: names and reasons must not be read as markup.
    return Group(Text("\n".join(told)), Points(document["study"], _divided(document["points"])))


class Points:
    """The points for a terminal of any width: names are wrapped, numbers never cut, the last columns left out first."""

    def __init__(self, study: str, rows: Sequence[Row]) -> None:
        self.study = study
        self.rows = rows
        self.columns = [column for column in _used(rows) if column.key in TERMINAL or column in ALONE]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for count in range(len(self.columns), -1, -1):
            made = self.table(self.columns[:count])
            if count == 0 or self._least(made, console, options) <= options.max_width:
                break
        yield made

    def _least(self, made: Table, console: Console, options: ConsoleOptions) -> int:
        """The width below which numbers would be cut."""
        name = made.columns[0]
        name.max_width = NARROW
        least = console.measure(made, options=options.update(max_width=10_000)).minimum
        name.max_width = None
        return least

    def table(self, used: Sequence[Column]) -> Table:
        rows, left = self.rows, self.columns[len(used) :]
        # Text, not str, as above
        title = Text("\n".join([f"study {self.study}", *([", ".join(ran(rows))] if rows else [])]))
        notes = _intervals(rows, used)
        notes += [f"No room here for {', '.join(_head(column, rows) for column in left)}."] * bool(left)
        caption = Text("\n".join([*notes, *_doubts(rows)]))
        made = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
        made.add_column("point", overflow="fold")
        made.add_column("status", no_wrap=True)
        made.add_column(unit(rows), justify="right", no_wrap=True)
        for column in used:
            # a unit has a line of its own: no_wrap is the numbers'
            made.add_column(Text(_head(column, rows).replace(" (", "\n(")), justify="right", no_wrap=True)
        for name, row in zip(names(rows), rows, strict=True):
            status = Text(str(row["status"]), style=STYLES.get(row["status"], "red"))
            starred = Text(f"{name} *" if _brief(row) else name)
            made.add_row(starred, status, str(row["gpus"]), *(Text(column.line(row)) for column in used))
        return made


def markdown(rows: Sequence[Row]) -> str:
    """The points as a Markdown table, and how to read it."""
    rows = _divided(rows)
    used = _used(rows)
    heads = ["point", "status", unit(rows), *(_head(column, rows) for column in used), "remarks"]
    lines = [heads, ["---", "---", *("--:" for _ in heads[2:-1]), "---"]]
    for name, row in zip(names(rows), rows, strict=True):
        numbers = [column.line(row) for column in used]
        lines.append([name, str(row["status"]), str(row["gpus"]), *numbers, _remarks(row)])
    note = "".join(f"\n{line}\n" for line in _intervals(rows, used))
    return "\n".join(f"| {' | '.join(plain(text) for text in line)} |" for line in lines) + f"\n{note}"


def html(rows: Sequence[Row]) -> str:
    """The points as an HTML table, a body a point; columns that no point has a value for are left out."""
    rows = _divided(rows)
    used = _used(rows)
    # A unit such as tokens/s/GPU may be broken, for its column is narrower.
    numbers = [escape(head).replace("/", "/<wbr>") for head in (unit(rows), *(_head(column, rows) for column in used))]
    heads = _sorting("point") + _sorting("status") + "".join(_sorting(title, ' class="number"') for title in numbers)
    bodies = []
    for name, row in zip(names(rows), rows, strict=True):
        status = escape(str(row["status"]))
        known = status if status in (*STYLES, "invalid", "preempted") else "bad"
        cells = "".join(f'<td class="number">{_number_cell(column, row)}</td>' for column in used)
        facts = "".join(f' data-{key}="{escape(str(row[key]))}"' for key in FILTERED if row[key] is not None)
        remarks = _remarks(row)
        below = f'<tr class="remarks"><td colspan="{3 + len(used)}">{escape(remarks)}</td></tr>' * bool(remarks)
        bodies.append(
            f'<tbody{facts}><tr><th scope="row">{escape(name)}{_small(str(row["slug"]))}</th>'
            f'<td><span class="status {known}">{status}</span></td><td class="number">{row["gpus"]}</td>{cells}</tr>'
            f"{below}</tbody>"
        )
    return f"<table><thead><tr>{heads}</tr></thead>\n{chr(10).join(bodies)}\n</table>"


def _sorting(title: str, kind: str = "") -> str:
    return f'<th scope="col"{kind}><button type="button" class="sort">{title}</button></th>'


def _divided(rows: Sequence[Row]) -> list[Row]:
    """The rows without the efficiency of curves that have one scale, for it is one by definition."""
    baselines = {row["baseline"] for row in rows if row["label"] != row["baseline"]}
    return [row if row["baseline"] in baselines else {**row, "efficiency": None} for row in rows]


def _used(rows: Sequence[Row]) -> list[Column]:
    # beside trained points the headline tells what collectives reached alone
    columns = COLUMNS if any(row["model"] is not None for row in rows) else ALONE
    return [column for column in columns if any(row[column.key] is not None for row in rows)]


def _head(column: Column, rows: Sequence[Row]) -> str:
    return column.head.format(one=unit(rows)[:-1])


def _busbw(row: Row) -> str:
    busbw, share = row["all_reduce_busbw"], _of_attainable(row, "all_reduce")
    return "" if busbw is None else f"busbw; {gigabytes(busbw)} GB/s" + f"; {share}" * bool(share)


def _of_attainable(row: Row, op: str) -> str:
    share = row[f"{op}_of_attainable"]
    return "" if share is None else f"{percent(share)}; of attainable"


def _rate_span(row: Row) -> str:
    return _rate_doubt(row) or f"[{number(row['tokens_per_s_lo'])}, {number(row['tokens_per_s_hi'])}]"


def _rate_doubt(row: Row) -> str:
    return "" if _interval(row, "tokens_per_s").tells else UNSURE


def _baseline(row: Row) -> str:
    return "" if row["label"] == row["baseline"] else f"{_bounds(row)}; of {row['baseline']}"


def _bounds(row: Row) -> str:
    efficiency = _interval(row, "efficiency")
    if row["label"] == row["baseline"]:
        return ""
    return span(efficiency) if efficiency.tells else UNSURE


def _interval(row: Row, key: str) -> Interval:
    return Interval(row[key], row[f"{key}_lo"], row[f"{key}_hi"])


def _intervals(rows: Sequence[Row], used: Sequence[Column]) -> list[str]:
    """How to read what stands behind numbers."""
    notes = ["Efficiency with the 95 % interval within one run."] * any(column.key == "efficiency" for column in used)
    unsure = any(UNSURE in column.line(row) for column in used for row in rows)
    return notes + [f"{UNSURE}: too uncertain to tell, with {TOO_WIDE}."] * unsure


def _remarks(row: Row) -> str:
    return "; ".join(text for text in (row["reason"], row["warnings"]) if text)


def _brief(row: Row) -> str:
    """The reason, or the first warning and how many there are."""
    if row["reason"]:
        return str(row["reason"])
    first, *others = (row["warnings"] or "").split("; ")
    return f"{first} (and {len(others)} more)" if others else first


def _doubts(rows: Sequence[Row]) -> list[str]:
    """A line for each remark, with the points that it is about."""
    about: dict[str, list[str]] = {}
    for name, row in zip(names(rows), rows, strict=True):
        if text := _brief(row):
            about.setdefault(text, []).append(name)
    return [f"* {', '.join(points)}: {text}" for text, points in about.items()]


def _number_cell(column: Column, row: Row) -> str:
    return escape(column.text(row)) + "".join(_small(line) for line in column.beneath(row).split("; "))


def _small(text: str) -> str:
    # Names of baselines may be long; everything else keeps its line.
    wraps = ' class="wraps"' * text.startswith("of ")
    return f"<small{wraps}>{escape(text)}</small>" if text else ""


def plain(text: str) -> str:
    """Text that neither ends its cell nor becomes HTML where Markdown is rendered."""
    return escape(" ".join(printable(text).split()), quote=False).replace("|", "\\|")
