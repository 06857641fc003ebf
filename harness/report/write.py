"""A study's report: read its run directories, write points.csv, summary.md and index.html."""

import dataclasses
import errno
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from harness.analysis.breakdown import Breakdown, breakdowns
from harness.analysis.comparison import comparisons
from harness.analysis.drift import drift
from harness.analysis.efficiency import curves
from harness.analysis.intervals import Interval
from harness.analysis.outliers import outliers
from harness.analysis.points import Gathered, gather
from harness.analysis.read import read_study
from harness.files import write_text
from harness.printable import printable
from harness.records import SCHEMA
from harness.report import tables
from harness.report.page import page
from harness.report.words import differences, drifting, headline, ran, standing_out, tally, unit

READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
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

FORMULA = r"^(\s*[=+\-@\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}]|[\t\r\n])"
"""A text that a spreadsheet takes for a formula; page.js has the same."""

SCALE = ("curve", "scaling", "label", "baseline", "nodes", "gpus", "step_s", "ideal_s", "gap_s")
"""The columns of breakdown.csv before a part's own: fields of a scale's breakdown."""


def report(
    study_dir: Path | str,
    processes: int = 1,
    join: Sequence[str] = (),
    folder: Path | None = None,
    printed: bool = False,
) -> dict[str, Any]:
    """Write the report into the study's folder or a given one, each file at once; return what it says, ready for JSON.

    `points` are the rows of points.csv, `curves` the scales with intervals, `breakdown` where each scale's loss comes
    from, `comparisons` those of strategies and NCCL settings, `outliers` and `drift` what stands out among repeats,
    `waiting` the ranks that keep others waiting most, `differences` what is not alike in points that are compared,
    `paths` the written files. Points that differ in the fields of `join` are one curve all the same. ValueError where
    the folder is no study of this version or cannot be written, and for a field that is none. Of one that is to be
    `printed` nothing is written where nobody may write, and `paths` is empty.
    """
    study = read_study(Path(study_dir))
    gathered = gather(study, processes, join)
    frame = gathered.frame
    rows = frame.to_dicts()
    found = curves(rows)
    lost, off, drifted = breakdowns(rows, found), outliers(rows, found), drift(rows, found)
    folder = folder or study.path / "report"
    paths = {"page": "index.html", "points": "points.csv", "summary": "summary.md"}
    timed = curves_of_collectives(gathered)
    if not timed.is_empty():
        paths["collectives"] = "collectives.csv"
    if any(one.tells for one in lost):
        paths["breakdown"] = "breakdown.csv"
    document = {
        "schema": SCHEMA,
        "kind": "report",
        "time": time.time(),
        "study": study.name,
        "headline": headline(rows, found, lost),
        "points": rows,
        "curves": [dataclasses.asdict(curve) for curve in found],
        "breakdown": [dataclasses.asdict(one) for one in lost],
        "comparisons": [dataclasses.asdict(one) for one in comparisons(rows, found, gathered.prints)],
        "outliers": [dataclasses.asdict(one) for one in off],
        "drift": dataclasses.asdict(drifted) if drifted else None,
        "waiting": [
            {"slug": row["slug"], "label": row["label"], **dataclasses.asdict(gathered.waiting[row["slug"]])}
            for row in rows
            if row["slug"] in gathered.waiting
        ],
        "warnings": [
            *study.warnings,
            *differences(gathered.differences, unit(rows)),
            *standing_out(off),
            *drifting(drifted),
        ],
        "differences": [dataclasses.asdict(difference) for difference in gathered.differences],
        "paths": {name: str((folder / file).absolute()) for name, file in paths.items()},
    }
    try:
        folder.mkdir(exist_ok=True)
        write_text(folder / "points.csv", csv(frame))
        write_text(folder / "summary.md", _summary(document))
        for name, table in (("collectives", timed), ("breakdown", breakdown_table(lost))):
            if name in paths:
                write_text(folder / paths[name], csv(table))
            else:  # as an earlier report may have left it
                (folder / f"{name}.csv").unlink(missing_ok=True)
        write_text(folder / "index.html", page(document, found, gathered))
    except OSError as error:
        if not printed or error.errno not in READ_ONLY:
            hint = "; --json prints the report all the same" * (error.errno in READ_ONLY)
            raise ValueError(f"{folder}: cannot be written ({error.strerror}){hint}") from error
        document["paths"] = {}
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


def breakdown_table(lost: Sequence[Breakdown]) -> pl.DataFrame:
    """One row a curve, scale and part of a step."""
    rows = [
        {name: getattr(one, name) for name in SCALE}
        | {"part": part.name, "own_s": part.own_s}
        | _bounds("lost_s", part.lost_s)
        | _bounds("lost_efficiency", part.lost_efficiency)
        | {"interval": part.lost_s.kind if part.lost_s else None}
        for one in lost
        for part in one.parts
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def csv(table: pl.DataFrame) -> str:
    """The table as text, with a ' before what a spreadsheet would run: a study may be a stranger's."""
    texts = pl.col(pl.String).map_elements(printable, return_dtype=pl.String)
    return table.with_columns(texts.str.replace(FORMULA, "'$1")).write_csv()


def _bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    values = (None,) * 3 if interval is None else (interval.value, interval.lo, interval.hi)
    return dict(zip((name, f"{name}_lo", f"{name}_hi"), values, strict=True))


def _summary(document: dict[str, Any]) -> str:
    lines = [*document["headline"], *document["warnings"]]
    findings = "".join(f"- {tables.plain(line)}\n" for line in lines)
    title = tables.plain(f"Scaling study {document['study']}")
    rows = document["points"]
    about = f"{tables.plain(tally(rows))}." + f" {tables.plain(', '.join(ran(rows)))}." * bool(rows)
    return f"# {title}\n\n{findings}\n{about}\n\n{tables.markdown(rows)}"
