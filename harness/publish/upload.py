"""`harness publish wandb STUDY`: the points that W&B does not have yet, then the study's report."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.read import Point, read_study
from harness.analysis.tail import Tail
from harness.heartbeat import holder
from harness.publish import state as mirror_json
from harness.publish.reach import unreachable

# Longer than a mirror's own limits together; only a mirror that cannot even end itself meets it.
LONGEST_S = 600
REPORT = "report"


@dataclass(frozen=True)
class Outcome:
    """What became of a point, or of the report: `published`, `skipped` or `failed`, and a sentence on it."""

    slug: str
    result: str
    line: str


def publish_each(study_dir: Path) -> Iterator[Outcome]:
    """Upload every point of a study that is not whole on the server, one after the other, then its report.

    Each outcome comes as soon as it is known. Where W&B cannot be reached, or there is no key, no run is tried, and the
    last outcome says how many are left. ValueError where there is no study.
    """
    study = read_study(Path(study_dir).resolve())
    recorded = held = asked = False
    away, left = None, 0
    for point in study:
        records, ours = len(Tail(point.path).read()), holder(point.path) is not None
        recorded, held = recorded or records > 0, held or ours
        reason = _skipped(point, records, ours)
        if reason:
            yield Outcome(point.slug, "skipped", f"{point.slug}: {reason}")
            continue
        if not asked:
            asked, away = True, unreachable()
        if away:
            left += 1
            continue
        outcome = _publish(point)
        if outcome.result == "failed":
            away = unreachable()
        yield outcome
    for warning in study.warnings:
        yield Outcome("", "failed", warning)
    if not recorded or held:
        reason = "is sent when no point is held by a controller" if held else "no point has records"
        yield Outcome(REPORT, "skipped", f"{REPORT}: {reason}")
    elif away:
        left += 1
    else:
        yield _publish_report(study.path)
    if left:
        runs = f"{left} run{'s' * (left > 1)} {'are' if left > 1 else 'is'}"
        yield Outcome(
            "", "failed", f"W&B takes nothing now, and {runs} left for another `harness publish wandb`: {away}"
        )


def _publish_report(study_dir: Path) -> Outcome:
    before = mirror_json.read(study_dir)
    outcome = _upload(study_dir, REPORT, "harness.publish.report_run")
    # it writes its state unless the server had this very report
    if outcome.result == "published" and before is not None and before == mirror_json.read(study_dir):
        return Outcome(REPORT, "skipped", f"{REPORT}: already published as run {before.run_id}")
    return outcome


def _skipped(point: Point, records: int, held: bool) -> str | None:
    """Why a point needs no upload now, or None."""
    status, state = point.status["status"], mirror_json.read(point.path)
    if not records:
        return f"{status}, has no records"
    if held:
        return f"{status}, is still held by its controller"
    if state and (state.state, state.mode_used) == ("done", "online") and state.records >= records:
        return f"already published as run {state.run_id}"
    return None


def _publish(point: Point) -> Outcome:
    return _upload(point.path, point.slug, "harness.publish.mirror")


def _upload(folder: Path, name: str, module: str) -> Outcome:
    """Mirror a folder online, in a process of its own: the client's failures stay there."""
    command = [sys.executable, "-m", module, "--publish", str(folder)]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        return Outcome(name, "failed", f"{name}: the upload did not end within {LONGEST_S} s")
    state = mirror_json.read(folder)
    if ended.returncode == 0 and state and state.mode_used == "online":
        return Outcome(name, "published", f"{name}: published as run {state.run_id}")
    reason = state.reason if state and state.reason else ended.stderr.decode(errors="replace").strip()
    return Outcome(name, "failed", f"{name}: {reason}")
