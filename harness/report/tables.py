"""The points as a table: on the page, in Markdown, in a terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from rich.table import Table
from rich.text import Text

from harness.analysis.summary import Row
from harness.report.words import gibibytes, milliseconds, names, number, percent, unit

TERMINAL = ("tokens_per_s", "tokens_per_s_gpu", "efficiency", "step_s_p50", "mfu", "all_reduce_s_p50")
STYLES = {"ok": "green", "running": "cyan", "pending": "dim", "queued": "dim"}


@dataclass(frozen=True)
class Column:
    """A column of numbers: its head with the unit, its key, how a value reads, and what stands small beneath it."""

    head: str
    key: str
    read: Callable[[float | None], str]
    small: Callable[[Row], str] = lambda row: ""

    def text(self, row: Row) -> str:
        return self.read(row[self.key])

    def beneath(self, row: Row) -> str:
        return "" if row[self.key] is None else self.small(row)


COLUMNS = (
    Column("tokens/s", "tokens_per_s", number, lambda row: _rate_span(row)),
    Column("tokens/s/{one}", "tokens_per_s_gpu", number),
    Column("efficiency", "efficiency", percent, lambda row: _baseline(row)),
    Column("step p50 (ms)", "step_s_p50", milliseconds, lambda row: f"p95 {milliseconds(row['step_s_p95'])}"),
    Column("MFU", "mfu", percent),
    Column("all-reduce (ms)", "all_reduce_s_p50", milliseconds, lambda row: _busbw(row)),
    Column("all-gather (ms)", "all_gather_s_p50", milliseconds),
    Column("reduce-scatter (ms)", "reduce_scatter_s_p50", milliseconds),
    Column(
        "goodput (tokens/s)", "goodput_tokens_per_s", number, lambda row: f"{percent(row['goodput_fraction'])} of time"
    ),
    Column("peak memory (GiB)", "peak_memory_bytes", gibibytes),
    Column("last loss", "loss_last", number),
)


def table(document: dict[str, Any]) -> Table:
    """The points of a report's document for a terminal."""
    rows = document["points"]
    made = Table(title=Text(f"study {document['study']}"), title_justify="left")
    used = [column for column in _used(rows) if column.key in TERMINAL]
    made.add_column("point", no_wrap=True)
    made.add_column("status")
    made.add_column(unit(rows), justify="right")
    for column in used:
        made.add_column(_head(column, rows), justify="right")
    for name, row in zip(names(rows), rows, strict=True):
        # Text, not str: names and reasons must not be read as markup.
        status = Text(str(row["status"]), style=STYLES.get(row["status"], "red"))
        made.add_row(Text(name), status, str(row["gpus"]), *(Text(column.text(row)) for column in used))
    return made


def markdown(rows: Sequence[Row]) -> str:
    """The points as a Markdown table."""
    used = _used(rows)
    heads = ["point", "status", unit(rows), *(_head(column, rows) for column in used), "remarks"]
    lines = [heads, ["---", "---", *("--:" for _ in heads[2:-1]), "---"]]
    for name, row in zip(names(rows), rows, strict=True):
        numbers = [column.text(row) for column in used]
        lines.append([name, str(row["status"]), str(row["gpus"]), *numbers, _remarks(row)])
    return "\n".join(f"| {' | '.join(plain(text) for text in line)} |" for line in lines) + "\n"


def html(rows: Sequence[Row]) -> str:
    """The points as an HTML table; columns that no point has a value for are left out."""
    used = _used(rows)
    heads = "".join(f'<th scope="col" class="number">{escape(_head(column, rows))}</th>' for column in used)
    body = []
    for name, row in zip(names(rows), rows, strict=True):
        status = escape(str(row["status"]))
        known = status if status in (*STYLES, "invalid", "preempted") else "bad"
        remarks = f"<small>{escape(_remarks(row))}</small>" * bool(_remarks(row))
        cells = "".join(f'<td class="number">{_number_cell(column, row)}</td>' for column in used)
        body.append(
            f'<tr><th scope="row">{escape(name)}{_small(str(row["slug"]))}</th>'
            f'<td><span class="status {known}">{status}</span>{remarks}</td>'
            f'<td class="number">{row["gpus"]}</td>{cells}</tr>'
        )
    return (
        f'<table><thead><tr><th scope="col">point</th><th scope="col">status</th>'
        f'<th scope="col" class="number">{unit(rows)}</th>{heads}</tr></thead>'
        f"<tbody>\n{chr(10).join(body)}\n</tbody></table>"
    )


def _used(rows: Sequence[Row]) -> list[Column]:
    return [column for column in COLUMNS if any(row[column.key] is not None for row in rows)]


def _head(column: Column, rows: Sequence[Row]) -> str:
    return column.head.format(one=unit(rows)[:-1])


def _busbw(row: Row) -> str:
    busbw = row["all_reduce_busbw"]
    return "" if busbw is None else f"busbw {number(busbw / 1e9, 3)} GB/s"


def _rate_span(row: Row) -> str:
    if row["tokens_per_s_lo"] is None:
        return ""
    return f"[{number(row['tokens_per_s_lo'])}, {number(row['tokens_per_s_hi'])}]"


def _baseline(row: Row) -> str:
    if row["efficiency_lo"] is None:
        return "is the baseline" if row["label"] == row["baseline"] else f"of {row['baseline']}"
    return f"[{row['efficiency_lo'] * 100:.1f}, {row['efficiency_hi'] * 100:.1f}]; of {row['baseline']}"


def _remarks(row: Row) -> str:
    return "; ".join(text for text in (row["reason"], row["warnings"]) if text)


def _number_cell(column: Column, row: Row) -> str:
    return escape(column.text(row)) + "".join(_small(line) for line in column.beneath(row).split("; "))


def _small(text: str) -> str:
    return f"<small>{escape(text)}</small>" if text else ""


def plain(text: str) -> str:
    """Text that neither ends its cell nor becomes HTML where Markdown is rendered."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")
