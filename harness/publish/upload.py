"""`harness publish wandb STUDY`: the points that W&B does not have yet."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.read import Point, read_study
from harness.analysis.tail import Tail
from harness.publish import state as mirror_json

# Longer than a mirror's own limits together; only a mirror that cannot even end itself meets it.
LONGEST_S = 600


@dataclass(frozen=True)
class Outcome:
    """What became of a point: `published`, `skipped` or `failed`, and a sentence on it."""

    slug: str
    result: str
    line: str


def publish(study_dir: Path) -> list[Outcome]:
    """Upload every point of a study that is not whole on the server, one after the other."""
    return list(publish_each(study_dir))


def publish_each(study_dir: Path) -> Iterator[Outcome]:
    """The same, each point's outcome as soon as it is known. ValueError where there is no study."""
    study = read_study(Path(study_dir).resolve())
    for point in study:
        reason = _skipped(point)
        yield Outcome(point.slug, "skipped", f"{point.slug}: {reason}") if reason else _publish(point)
    for warning in study.warnings:
        yield Outcome("", "failed", warning)


def _skipped(point: Point) -> str | None:
    """Why a point needs no upload now, or None."""
    status, state = point.status["status"], mirror_json.read(point.path)
    records = len(Tail(point.path).read())
    if not records:
        return f"{status}, has no records"
    if mirror_json.held(point.path):
        return f"{status}, is still held by its controller"
    if state and (state.state, state.mode_used) == ("done", "online") and state.records >= records:
        return f"already published as run {state.run_id}"
    return None


def _publish(point: Point) -> Outcome:
    """Mirror a point's records online, in a process of its own: the client's failures stay there."""
    command = [sys.executable, "-m", "harness.publish.mirror", "--publish", str(point.path)]
    try:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        return Outcome(point.slug, "failed", f"{point.slug}: the upload did not end within {LONGEST_S} s")
    state = mirror_json.read(point.path)
    if ended.returncode == 0 and state and state.mode_used == "online":
        return Outcome(point.slug, "published", f"{point.slug}: published as run {state.run_id}")
    reason = state.reason if state else ended.stderr.decode(errors="replace").strip()
    return Outcome(point.slug, "failed", f"{point.slug}: {reason}")
