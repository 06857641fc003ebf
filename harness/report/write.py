"""A study's report: read its run directories, write points.csv, summary.md and index.html."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from harness.analysis.efficiency import curves
from harness.analysis.points import points
from harness.analysis.read import read_study
from harness.report import tables
from harness.report.page import page
from harness.report.words import headline, tally

SCHEMA = 1


def report(study_dir: Path | str) -> dict[str, Any]:
    """Write the report into the study's folder, each file at once; return what it says, ready for JSON.

    `points` are the rows of points.csv, `curves` the scales with intervals, `paths` the written files. ValueError
    where the folder is no study of this version.
    """
    study = read_study(Path(study_dir))
    frame = points(study)
    rows = frame.to_dicts()
    found = curves(rows)
    folder = study.path / "report"
    paths = {"page": "index.html", "points": "points.csv", "summary": "summary.md"}
    document = {
        "schema": SCHEMA,
        "kind": "report",
        "time": time.time(),
        "study": study.name,
        "headline": headline(rows, found),
        "points": rows,
        "curves": [dataclasses.asdict(curve) for curve in found],
        "warnings": list(study.warnings),
        "paths": {name: str((folder / file).absolute()) for name, file in paths.items()},
    }
    folder.mkdir(exist_ok=True)
    _replace(folder / "points.csv", frame.write_csv())
    _replace(folder / "summary.md", _summary(document))
    _replace(folder / "index.html", page(document, found))
    return document


def _summary(document: dict[str, Any]) -> str:
    lines = [*document["headline"], *document["warnings"]]
    findings = "".join(f"- {tables.plain(line)}\n" for line in lines)
    title = tables.plain(f"Scaling study {document['study']}")
    return f"# {title}\n\n{findings}\n{tally(document['points'])}.\n\n{tables.markdown(document['points'])}"


def _replace(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
