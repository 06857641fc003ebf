"""A study's report: read its run directories, write points.csv, summary.md and index.html."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import polars as pl

from harness.analysis.efficiency import curves
from harness.analysis.files import write_text
from harness.analysis.points import Gathered, gather
from harness.analysis.read import read_study
from harness.report import tables
from harness.report.page import page
from harness.report.words import differences, headline, ran, tally

SCHEMA = 1
TIMED = (
    "op",
    "bytes",
    "group_size",
    "dtype",
    "graph",
    "in_place",
    "iterations",
    "batches",
    "duration_s",
    "duration_min_s",
    "duration_max_s",
    "algbw",
    "busbw",
    "wrong",
)
"""The columns of collectives.csv after slug and label: fields of `benchmark` records."""


def report(study_dir: Path | str, folder: Path | None = None) -> dict[str, Any]:
    """Write the report into the study's folder or a given one, each file at once; return what it says, ready for JSON.

    `points` are the rows of points.csv, `curves` the scales with intervals, `paths` the written files. ValueError
    where the folder is no study of this version or cannot be written.
    """
    study = read_study(Path(study_dir))
    gathered = gather(study)
    frame = gathered.frame
    rows = frame.to_dicts()
    found = curves(rows)
    folder = folder or study.path / "report"
    paths = {"page": "index.html", "points": "points.csv", "summary": "summary.md"}
    timed = curves_of_collectives(gathered)
    if not timed.is_empty():
        paths["collectives"] = "collectives.csv"
    document = {
        "schema": SCHEMA,
        "kind": "report",
        "time": time.time(),
        "study": study.name,
        "headline": headline(rows, found),
        "points": rows,
        "curves": [dataclasses.asdict(curve) for curve in found],
        "warnings": [*study.warnings, *differences(rows)],
        "paths": {name: str((folder / file).absolute()) for name, file in paths.items()},
    }
    try:
        folder.mkdir(exist_ok=True)
        write_text(folder / "points.csv", frame.write_csv())
        write_text(folder / "summary.md", _summary(document))
        if "collectives" in paths:
            write_text(folder / paths["collectives"], timed.write_csv())
        write_text(folder / "index.html", page(document, found, gathered))
    except OSError as error:
        raise ValueError(f"{folder}: cannot be written ({error.strerror})") from error
    return document


def curves_of_collectives(gathered: Gathered) -> pl.DataFrame:
    """One row an operation, size and way to launch it, of every point that times collectives alone."""
    labels = dict(gathered.frame.select("slug", "label").iter_rows())
    rows = [
        {"slug": curve.slug, "label": labels[curve.slug], **{name: entry[name] for name in TIMED}}
        for curve in gathered.bandwidths
        for entry in curve.entries
    ]
    return pl.DataFrame(rows)


def _summary(document: dict[str, Any]) -> str:
    lines = [*document["headline"], *document["warnings"]]
    findings = "".join(f"- {tables.plain(line)}\n" for line in lines)
    title = tables.plain(f"Scaling study {document['study']}")
    rows = document["points"]
    about = f"{tables.plain(tally(rows))}." + f" {tables.plain(', '.join(ran(rows)))}." * bool(rows)
    return f"# {title}\n\n{findings}\n{about}\n\n{tables.markdown(rows)}"
