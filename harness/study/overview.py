"""How a study stands, point by point."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.study.lease import holder
from harness.study.rundir import check_schema, point_dirs, read_status


def overview(study_dir: Path) -> dict[str, Any]:
    """The document of `harness status --json`. A point that runs, but that nobody holds, is `lost`."""
    check_schema(study_dir)
    points, warnings = [], []
    for run_dir in point_dirs(study_dir):
        try:
            status, held = read_status(run_dir), holder(run_dir)
        except (OSError, ValueError) as error:
            warnings.append(f"point {run_dir.name} is left out: {error}")
            continue
        points.append(
            {
                "slug": run_dir.name,
                "status": status["status"] if status else "pending",
                "time": status["time"] if status else None,
                "reason": status["reason"] if status else None,
                "rank": status["rank"] if status else None,
                "holder": {key: held.get(key) for key in ("host", "pid", "job")} if held else None,
                "lost": bool(status and status["status"] == "running" and not held),
            }
        )
    counts = Counter(point["status"] for point in points)
    return {
        "schema": 1,
        "kind": "overview",
        "time": time.time(),
        "study": study_dir.name,
        "path": str(study_dir),
        "counts": dict(counts),
        "points": points,
        "warnings": warnings,
    }


def lines(document: dict[str, Any]) -> Iterator[str]:
    """The same for a person."""
    counts = ", ".join(f"{number} {status}" for status, number in document["counts"].items())
    yield f"study {document['study']}: {counts or 'no points yet'}"
    width = max((len(point["slug"]) for point in document["points"]), default=0)
    for point in document["points"]:
        held = f" (process {point['holder']['pid']} on {point['holder']['host']})" if point["holder"] else ""
        lost = " (its controller has disappeared)" if point["lost"] else ""
        reason = f": {point['reason']}" if point["reason"] else ""
        yield f"  {point['slug']:<{width}}  {point['status']}{held}{lost}{reason}"
    yield from document["warnings"]
