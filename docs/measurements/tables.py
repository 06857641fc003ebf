"""Writes the tables of docs/measurements/README.md from the points.csv beside it."""

import csv
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
MARK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS = {
    "parallel": lambda row: row["parallel"],
    "nccl": lambda row: row["nccl"],
    "GPUs": lambda row: row["gpus"],
    "tokens/s/GPU": lambda row: figure(row["tokens_per_s_gpu"], "{:,.0f}"),
    "95 % interval": lambda row: interval(row),
    "MFU %": lambda row: figure(row["mfu"], "{:.1f}", 100),
    "efficiency %": lambda row: figure(row["efficiency"], "{:.1f}", 100),
    "memory GiB": lambda row: figure(row["peak_memory_bytes"], "{:.1f}", 2**-30),
    "all-reduce ms": lambda row: figure(row["all_reduce_s_p50"], "{:.1f}", 1e3),
    "busbw GB/s": lambda row: figure(row["all_reduce_busbw"], "{:.0f}", 1e-9),
    "all-gather ms": lambda row: figure(row["all_gather_s_p50"], "{:.1f}", 1e3),
    "reduce-scatter ms": lambda row: figure(row["reduce_scatter_s_p50"], "{:.1f}", 1e3),
    "goodput %": lambda row: figure(row["goodput_fraction"], "{:.1f}", 100),
}


def figure(text: str, form: str, scale: float = 1.0) -> str:
    """A number as the table shows it; a dash where there is none."""
    return form.format(float(text) * scale) if text else "–"


def interval(row: dict[str, str]) -> str:
    """The interval of the throughput, per GPU."""
    share = 1 / int(row["gpus"])
    return f"{figure(row['tokens_per_s_lo'], '{:,.0f}', share)} to {figure(row['tokens_per_s_hi'], '{:,.0f}', share)}"


def table(study: str) -> str:
    """The ok points of a study, one row each."""
    with open(HERE / study / "points.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * 2 + "--:|" * (len(COLUMNS) - 2)]
    lines += ["| " + " | ".join(show(row) for show in COLUMNS.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    """The page with every marked table made anew."""
    return MARK.sub(lambda mark: mark[1] + table(mark[2]) + mark[3], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
