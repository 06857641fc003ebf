"""Writes the tables of docs/measurements/README.md from the points.csv beside it."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, cast

from omegaconf import OmegaConf

from harness.config import Config
from harness.plan.memory import estimate

Columns = dict[str, Callable[[dict[str, str]], str]]

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
MARK = re.compile(r"(<!-- (table|repeats|strategies|collectives): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS: Columns = {
    "parallel": lambda row: row["parallel"],
    "nccl": lambda row: row["nccl"],
    "GPUs": lambda row: row["gpus"],
    "tokens/s/GPU": lambda row: figure(row["tokens_per_s_gpu"], "{:,.0f}"),
    "95 % interval": lambda row: interval(row),
    "MFU %": lambda row: figure(row["mfu"], "{:.1f}", 100),
    "efficiency %": lambda row: figure(row["efficiency"], "{:.1f}", 100),
    "memory GiB": lambda row: figure(row["peak_memory_bytes"], "{:.1f}", 2**-30),
    "all-reduce ms": lambda row: figure(row["all_reduce_s_p50"], "{:.1f}", 1e3),
    "busbw GB/s": lambda row: figure(row["all_reduce_busbw"], "{:.3g}", 1e-9),
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


def ok(study: str) -> list[dict[str, str]]:
    """The rows of a study's ok points."""
    with open(HERE / study / "points.csv") as file:
        return [row for row in csv.DictReader(file) if row["status"] == "ok"]


def table(rows: Iterable[dict[str, str]], columns: Columns) -> str:
    """A line for each row."""
    rule = "".join("---|" if name in WORDS else "--:|" for name in columns)
    lines = ["| " + " | ".join(columns) + " |", "|" + rule]
    lines += ["| " + " | ".join(show(row) for show in columns.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def folder(row: dict[str, str]) -> Path:
    """A row's run directory."""
    return HERE / row["study"] / "points" / row["slug"]


@cache
def configured(run_dir: Path) -> Config:
    """A point's configuration."""
    stored = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(run_dir / "config.yaml"))
    return cast(Config, OmegaConf.to_object(stored))


@cache
def records(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """A point's records of a kind."""
    lines = (run_dir / "attempts" / "0" / "events.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def choices(row: dict[str, str]) -> str:
    """What a strategy was told beside its name."""
    config = configured(folder(row))
    parallel, found = config.parallel, []
    if parallel.pp > 1:
        found.append(parallel.schedule)
    if parallel.cp > 1:
        found.append(parallel.context)
    if config.activation_checkpointing != "none":
        found.append(f"{config.activation_checkpointing} checkpointing")
    if config.precision.float8:
        found.append("float8")
    return ", ".join(found) or "–"


def planned_memory(row: dict[str, str]) -> float:
    """Bytes that the plan says of the rank with the most."""
    return float(estimate(configured(folder(row))).total)


def moved(row: dict[str, str]) -> str:
    """GB that rank 0 moved in a step, by group, as recorded; none where all operations were small."""
    samples = [record for record in records(folder(row), "collectives") if not record["partial"]]
    if not samples:
        return "–"
    groups = samples[-1]["groups"]
    totals = {label: sum(entry["bytes"] for entry in found.values()) for label, found in groups.items()}
    large = {label: total for label, total in totals.items() if total}
    return ", ".join(f"{label} {total / 1e9:.2f}" for label, total in large.items()) or "–"


def losses(row: dict[str, str]) -> str:
    """The loss of the first step and of the last."""
    steps = records(folder(row), "step")
    return f"{steps[0]['loss']:.2f} → {steps[-1]['loss']:.2f}"


def graph_breaks(row: dict[str, str]) -> str:
    """Graph breaks of rank 0's compiled blocks."""
    (end,) = records(folder(row), "end")
    return "–" if end["graph_breaks"] is None else str(end["graph_breaks"])


STRATEGY_COLUMNS: Columns = {
    "model": lambda row: row["model"],
    "parallel": lambda row: row["parallel"],
    "with": choices,
    "tokens/s/GPU": COLUMNS["tokens/s/GPU"],
    "95 % interval": COLUMNS["95 % interval"],
    "MFU %": COLUMNS["MFU %"],
    "memory GiB": COLUMNS["memory GiB"],
    "planned GiB": lambda row: f"{planned_memory(row) / 2**30:.1f}",
    "measured ÷ planned": lambda row: f"{float(row['peak_memory_bytes']) / planned_memory(row):.2f}",
    "all-reduce ms": COLUMNS["all-reduce ms"],
    "all-gather ms": COLUMNS["all-gather ms"],
    "reduce-scatter ms": COLUMNS["reduce-scatter ms"],
    "all-to-all ms": lambda row: figure(row["all_to_all_s_p50"], "{:.1f}", 1e3),
    "send/receive ms": lambda row: figure(row["send_recv_s_p50"], "{:.1f}", 1e3),
    "GB a step and rank": moved,
    "graph breaks": graph_breaks,
    "loss": losses,
}
WORDS = {"model", "parallel", "nccl", "with", "GB a step and rank", "loss"}
"""Columns that are not numbers."""

RANGE = "of the repeats"
REPEATED: Columns = {RANGE if name == "95 % interval" else name: show for name, show in COLUMNS.items()}
REPEATED |= {RANGE: lambda row: row["range"]}


def repeats(study: str) -> Iterator[dict[str, str]]:
    """A row for the repeats of each point: the median of every number, and from which to which tokens/s/GPU they go."""
    together: dict[tuple[str, str, int], list[dict[str, str]]] = {}
    for row in ok(study):
        together.setdefault((row["parallel"], row["nccl"], int(row["gpus"])), []).append(row)
    for (parallel, nccl, gpus), rows in together.items():
        speeds = sorted(float(row["tokens_per_s_gpu"]) for row in rows)
        found = {name: middle([row[name] for row in rows]) for name in rows[0]} | {"gpus": str(gpus)}
        if gpus == min(key[2] for key in together if key[:2] == (parallel, nccl)):
            found["efficiency"] = ""  # the baseline
        yield {**found, "range": f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}"}


def middle(cells: Sequence[str]) -> str:
    """The median of numbers; of anything else, and where one is missing, the first."""
    try:
        return str(median(map(float, cells)))
    except ValueError:
        return cells[0]


SIZES = {"1 KiB": 2**10, "16 MiB": 2**24, "256 MiB": 2**28, "4 GiB": 2**32}
"""Of operations alone: the smallest is told by its time, the others by their bus bandwidth."""


def collectives(study: str) -> str:
    """The operations of a study's one point that timed collectives, one row each, by the faster way to launch them."""
    [point] = (HERE / study / "points").iterdir()
    lines = [
        "| operation | 1 KiB, µs | " + " | ".join(f"{size}, GB/s" for size in [*SIZES][1:]) + " |",
        "|---|" + "--:|" * len(SIZES),
    ]
    told: dict[str, dict[int, dict[str, Any]]] = {}
    for entry in records(point, "benchmark"):
        sizes = told.setdefault(entry["op"], {})
        sizes[entry["bytes"]] = min(entry, sizes.get(entry["bytes"], entry), key=lambda one: one["duration_s"])
    for op, sizes in told.items():
        first, *others = SIZES.values()
        cells = [f"{sizes[first]['duration_s'] * 1e6:.1f}", *(f"{sizes[size]['busbw'] / 1e9:.1f}" for size in others)]
        lines.append(f"| {op} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


KINDS_OF_TABLES: dict[str, Callable[[str], str]] = {
    "table": lambda study: table(ok(study), COLUMNS),
    "repeats": lambda study: table(repeats(study), REPEATED),
    "strategies": lambda study: table(ok(study), STRATEGY_COLUMNS),
    "collectives": collectives,
}


def filled(page: str) -> str:
    """The page with every marked table made anew."""
    return MARK.sub(lambda mark: mark[1] + KINDS_OF_TABLES[mark[2]](mark[3]) + mark[4], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
