"""How a study stands, point by point."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.heartbeat import holder
from harness.printable import printable
from harness.records import ACTIVE, OPEN, attempts, by_hand, has_end
from harness.study.rundir import check_schema, point_dirs, read_status
from launch import allocation

LOOK_S = 2.0
QUIET_S = 60.0
DISAPPEARED = "its controller has disappeared"

Look = Callable[[Sequence[dict[str, Any]]], tuple[Mapping[str, str], Sequence[str]]]
"""Of an overview's points, what each has measured so far, by slug, and what comes of it for the study."""


def overview(study_dir: Path) -> dict[str, Any]:
    """The document of `harness status --json`.

    A point is `lost` that runs, but that nobody holds, or that is queued, but whose job has ended.
    """
    check_schema(study_dir)
    points, warnings, ended = [], [], set()
    # Before the points are read for good: a job that has ended by now has written how its point ended.
    try:
        ended = ended_jobs(study_dir)
    except (OSError, ValueError) as error:
        warnings.append(f"Slurm could not be asked whether queued points still wait: {error}")
    for run_dir in point_dirs(study_dir):
        try:
            points.append(entry(run_dir, ended))
        except ValueError as error:
            warnings.append(f"point {run_dir.name} is left out: {error}")
        except OSError as error:
            warnings.append(f"point {run_dir.name} is left out: {Path(error.filename or '').name}: {error.strerror}")
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


def ended_jobs(study_dir: Path) -> set[str]:
    """The jobs of queued points that Slurm does not know as waiting or running; it is asked once for all of them."""
    queued = set()
    for run_dir in point_dirs(study_dir):
        with suppress(OSError, ValueError):  # told where the point is read for good
            status = read_status(run_dir) or {}
            if status.get("status") == "queued" and status.get("job"):
                queued.add(status["job"])
    return queued - allocation.waiting(sorted(queued))


def entry(run_dir: Path, ended: set[str]) -> dict[str, Any]:
    """A point's part of the document; `ended` are jobs that will not start any more."""
    status, held = read_status(run_dir) or {}, holder(run_dir)
    if status.get("status") == "running" and not held:
        status = read_status(run_dir) or {}  # it may have ended between the two looks
    stands, job = status.get("status") or by_hand(any(map(has_end, attempts(run_dir)))), status.get("job")
    return {
        "slug": run_dir.name,
        "status": stands,
        "time": status.get("time"),
        "reason": status.get("reason"),
        "rank": status.get("rank"),
        "host": status.get("host"),
        "attempt": status.get("attempt"),
        "job": job,
        "holder": {key: held.get(key) for key in ("host", "pid", "job")} if held else None,
        "lost": (stands == "running" and not held) or (stands == "queued" and job in ended),
    }


def lines(document: dict[str, Any], figures: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """The same for a person, behind each status what `figures` has by slug."""
    document = printable(document)
    counts = ", ".join(f"{number} {status}" for status, number in document["counts"].items())
    unread = "none of its points can be read" if document["warnings"] else "no points yet"
    yield f"study {document['study']}: {counts or unread}"
    width = max((len(point["slug"]) for point in document["points"]), default=0)
    for point in document["points"]:
        notes = ", ".join(remarks(point, Path(document["path"]) / "points" / point["slug"]))
        reason = f": {point['reason']}" if point["reason"] else ""
        told = figures.get(point["slug"], "")
        yield f"  {point['slug']:<{width}}  {point['status']}{notes and f' ({notes})'}{told and f'  {told}'}{reason}"
    yield from document["warnings"]


def remarks(point: dict[str, Any], run_dir: Path) -> Iterator[str]:
    """What stands in brackets behind a point's status: its job, its latest attempt, its holder, and what is wrong."""
    job, held = point["job"], point["holder"]
    if point["lost"] and point["status"] == "queued":
        log = run_dir / f"job-{job}.log"
        yield f"job {job} has ended without starting it{f', see {log}' if log.exists() else ''}"
    elif job:
        yield f"job {job}"
    if point["attempt"]:
        yield f"attempt {point['attempt']}"
    if held and point["status"] in OPEN:  # one that has just ended is let go of a moment later
        yield f"process {held['pid']} on {held['host']}"
    if point["lost"] and point["status"] == "running":
        yield DISAPPEARED


def watch(study_dir: Path, look: Look) -> None:
    """Show the study until nothing in it waits or runs: drawn anew on a terminal, elsewhere the lines that changed.

    Where points are left that nobody runs, the last line says so.
    What was measured changes all the time; elsewhere it stands in the lines of points whose status has changed.
    """
    console = Console(force_terminal=sys.stdout.isatty(), highlight=False)
    if console.is_interactive:
        with Live(console=console, auto_refresh=False) as live:
            shown: list[str] = []
            for document in looks(study_dir):
                figures, headline = look(document["points"])
                if len(document["points"]) > console.height - len(headline) - 2:  # what runs must not fall off the end
                    document["points"].sort(key=lambda point: point["status"] not in ACTIVE)
                title, *points = lines(document, figures)
                if (now := [title, *headline, *points]) != shown:
                    live.update(Text("\n".join(now)), refresh=True)
                    shown = now
        sys.stdout.writelines(f"{line}\n" for line in left(document))
        return
    before: set[str] = set()
    for document in looks(study_dir):
        figures, headline = look(document["points"])
        plain = list(lines(document))
        first, *others = zip(plain, lines(document, figures), strict=True)
        told = [first, *((line, line) for line in headline), *others]
        sys.stdout.writelines(f"{line}\n" for key, line in told if key not in before)
        sys.stdout.flush()
        before = {key for key, _ in told}
    sys.stdout.writelines(f"{line}\n" for line in left(document))


def left(document: dict[str, Any]) -> Iterator[str]:
    """Why watching ends although points have not ended; those that are lost have it behind them."""
    count = sum(point["status"] in OPEN and not point["lost"] for point in document["points"])
    if count:
        yield f"{count} pending: nobody runs this study any more; the command that began it goes on with what is left"


def looks(study_dir: Path) -> Iterator[dict[str, Any]]:
    """The overview, again and again, until no point is going to change by itself."""
    while True:
        if not study_dir.is_dir():
            raise ValueError(f"study {study_dir.name}: its folder {study_dir} is gone")
        document = overview(study_dir)
        yield document
        live = [point for point in document["points"] if not point["lost"]]
        if not any(point["status"] in OPEN for point in live):
            return
        # between two points none runs; what then stays pending has nobody who would start it
        latest = max((point["time"] or 0.0 for point in live), default=0.0)
        if all(point["status"] not in ACTIVE for point in live) and time.time() - latest > QUIET_S:
            return
        time.sleep(LOOK_S)
