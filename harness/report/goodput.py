"""Where one point's wall-clock went: its goodput ledger, as a document and for a terminal."""

import dataclasses
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.analysis.accounts import MALFORMED, as_planned
from harness.analysis.efficiency import named
from harness.analysis.goodput import doubts, ledger
from harness.analysis.points import gather
from harness.analysis.read import Point, read_config, read_point, read_study
from harness.analysis.steps import gaps, unended, without_record
from harness.config import Config
from harness.plan.workload import times_collectives
from harness.quantities import NONE, number
from harness.records import SCHEMA
from harness.report.words import percent

BAR_WIDTH = 40


def goodput(run_dir: Path, processes: int = 1) -> dict[str, Any]:
    """The ledger of a run directory as it stands. ValueError where the folder is none.

    Where nobody has stamped a start, seconds and rates are null: not yet started, or started by hand. Collectives
    alone have neither steps nor tokens.
    """
    if not (run_dir / "config.yaml").is_file():
        raise ValueError(
            f"{run_dir}: is no run directory, which has a config.yaml; give a folder like studies/STUDY/points/SLUG"
        )
    point = read_point(run_dir)
    found = _efficiency(run_dir, point.config, processes)
    for told in (point, as_planned(point)):
        with suppress(*MALFORMED):
            return _document(told, *found)
    raise ValueError(f"{run_dir}: its config.yaml has values that make no sense")


def _document(point: Point, efficiency: float | None, peak: str | None) -> dict[str, Any]:
    tiled = ledger(point.launches, point.events)
    stamped, trains, ok = bool(point.launches), not times_collectives(point.config), point.status["status"] == "ok"
    # without their records nobody knows how long they took
    lost = gaps(point.events, point.config, ok)
    whole = not lost and not unended(point.events, point.config, ok)
    return {
        "schema": SCHEMA,
        "kind": "goodput",
        "time": time.time(),
        "path": str(point.path),
        "status": point.status["status"],
        "reason": point.status["reason"],
        "gpus": point.config.nodes * point.config.gpus_per_node,
        "attempts": tiled.attempts,
        "wall_s": tiled.wall_s if stamped else None,
        "queue_s": tiled.queue_s,
        "buckets": {name: seconds if stamped else None for name, seconds in tiled.buckets.items()},
        "kept_steps": tiled.kept_steps if trains else None,
        "lost_steps": tiled.lost_steps if stamped and trains else None,
        "kept_tokens": tiled.kept_tokens if trains else None,
        "goodput_tokens_per_s": tiled.goodput_tokens_per_s if trains and whole else None,
        "goodput_fraction": tiled.goodput_fraction if whole else None,
        "goodput_efficiency": efficiency,
        "goodput_peak": peak,
        "warnings": [*([without_record(lost)] if lost else []), *point.warnings, *doubts(tiled)],
    }


def waterfall(document: dict[str, Any]) -> RenderableType:
    """The document for a person: each bucket with its share, then what it comes to."""
    wall = document["wall_s"]
    # Text, not str: names must not be read as markup.
    table = Table(title=Text(f"{Path(document['path']).name}: {document['status']}"), title_justify="left")
    table.add_column("bucket")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    table.add_column("of the wall-clock", min_width=BAR_WIDTH)
    for name, seconds in document["buckets"].items():
        share = seconds / wall if wall else None
        bar = "█" * round(BAR_WIDTH * (share or 0))
        style = "green" if name == "step" else "red" if name in ("step_lost", "other") else ""
        table.add_row(name, _seconds(seconds), percent(share), Text(bar, style=style))
    table.add_section()
    table.add_row("wall-clock", _seconds(wall), percent(1.0) if wall else NONE)
    return Group(table, Text("\n".join(_facts(document))))


def _facts(document: dict[str, Any]) -> list[str]:
    ranks, fraction = f"{document['gpus']} ranks", percent(document["goodput_fraction"])
    attempts = f"attempts {document['attempts']}; queued before {_seconds(document['queue_s'])} s"
    if document["kept_steps"] is None:
        facts = [f"{fraction} of the wall-clock in timed calls, over {ranks}", attempts]
    else:
        rate = number(document["goodput_tokens_per_s"])
        efficiency = f"goodput efficiency {percent(document['goodput_efficiency'])}"
        if document["goodput_peak"]:
            efficiency += f" of {document['goodput_peak']} on each rank"
        lost = NONE if document["lost_steps"] is None else f"{document['lost_steps']:,}"
        facts = [
            f"goodput {rate} tokens/s over {ranks}; {fraction} of the wall-clock productive; {efficiency}",
            f"steps kept {document['kept_steps']:,}, lost {lost}; {attempts}",
        ]
    if document["reason"]:
        facts.append(f"{document['status']}: {document['reason']}")
    elif document["wall_s"] is None:
        facts.append("nobody has stamped a start: not started yet, or started by hand")
    return [*facts, *document["warnings"]]


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:,.2f}"


def _efficiency(run_dir: Path, config: Config, processes: int) -> tuple[float | None, str | None]:
    """Goodput efficiency and its peak's label, where the folder lies in a study that knows them."""
    study_dir = run_dir.parent.parent
    if run_dir.parent.name != "points" or not (study_dir / "study.json").is_file():
        return None, None
    study = read_study(study_dir)
    # a large study is slow to read, and what is told of a point depends on those alone that may be on its curve
    alike = [folder for folder in study.folders if folder == run_dir or _alike(folder, config)]
    for row in gather(dataclasses.replace(study, folders=alike), processes).frame.rows(named=True):
        if row["slug"] == run_dir.name:
            return row["goodput_efficiency"], row["goodput_peak"]
    return None, None


def _alike(folder: Path, config: Config) -> bool:
    try:
        return named(read_config(folder)) == named(config)
    except (TypeError, ValueError):  # damaged
        return False
