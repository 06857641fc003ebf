"""What a point must be after all that was done to it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run_dirs import validator

from harness.analysis.goodput import doubts, ledger
from harness.analysis.read import Point, read_lines, read_point
from harness.analysis.steps import kept
from harness.bench.judge import Check
from harness.training import manifest
from launch.local import marked

LOSS_TOLERANCE = 1e-5
TORN_LAST = re.compile(r"[^:]+: skipped a torn last line")


def checks(run_dir: Path, whole: Path, faults: Sequence[dict[str, Any]]) -> tuple[list[Check], dict[str, Any]]:
    """The checks of a point against one that nothing disturbed, and what they were made of."""
    point, steps = read_point(run_dir), read_point(whole).config.steps
    losses, undisturbed = by_step(point), by_step(read_point(whole))
    differences = [abs(losses[step] - undisturbed[step]) for step in losses.keys() & undisturbed.keys()]
    tiled = ledger(point.launches, point.events)
    found = torn(point, {fault["attempt"] for fault in faults})
    wrong = {
        "kept steps that are not 1 to N, each once": misplaced(point, steps),
        "doubts of the ledger": doubts(tiled),
        "torn or left behind": found,
        "processes left": [str(process) for process in marked(str(run_dir))],
    }
    made = [
        at_least("the point is ok", point.status["status"] == "ok", 1),
        at_most("the final loss differs by", abs(losses.get(steps, 9e9) - undisturbed[steps]), LOSS_TOLERANCE),
        at_most("any step's loss differs by", max(differences, default=9e9), LOSS_TOLERANCE),
        at_least("steps that the ledger keeps", tiled.kept_steps, steps),
        at_most("steps that the ledger keeps", tiled.kept_steps, steps),
        at_most("buckets less wall-clock, s", abs(sum(tiled.buckets.values()) - tiled.wall_s), 1e-6),
        at_most("wall-clock without a stamp, s", tiled.buckets["other"], max(1.0, 0.01 * tiled.wall_s)),
        *(at_most(name, len(lines), 0) for name, lines in wrong.items()),
    ]
    measured = {
        "steps": steps,
        "ledger": {"wall_s": tiled.wall_s, "attempts": tiled.attempts, "lost_steps": tiled.lost_steps}
        | {"buckets": tiled.buckets},
        "wrong": wrong,
        "warnings": point.warnings,
    }
    return made, measured


def at_most(name: str, value: float, bound: float) -> Check:
    return Check(name, value, value, value, bound)


def at_least(name: str, value: float, bound: float) -> Check:
    return Check(name, value, value, value, bound, at_least=True)


def by_step(point: Point) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in kept(point.events)}


def misplaced(point: Point, steps: int) -> list[str]:
    """Steps that are not kept, and any that an attempt has recorded twice."""
    kept_steps = [record["step"] for record in kept(point.events)]
    lost = [f"step {step} has no record" for step in range(1, steps + 1) if step not in kept_steps]
    more = [f"step {step} is beyond the point" for step in kept_steps if not 1 <= step <= steps]
    for attempt, records in point.events.items():
        numbers = [record["step"] for record in records if record["kind"] == "step"]
        more += [f"attempt {attempt} has step {step} twice" for step in {n for n in numbers if numbers.count(n) > 1}]
    return lost + more


def torn(point: Point, hit: set[int]) -> list[str]:
    """What is not whole, and what should not be there any more."""
    found = []
    run_dir = point.path
    checkpoints = manifest.whole(run_dir / "checkpoints")
    for path in run_dir.rglob("*.json"):
        # what torchrun and W&B's client write in place a full disk can cut short; the harness reads it knowing that
        if {"logs", "wandb"} & {*path.relative_to(run_dir).parts}:
            continue
        try:
            document = json.loads(path.read_bytes())
        except ValueError as error:
            found.append(f"{path.relative_to(run_dir)}: {error}")
            continue
        if path.parent not in checkpoints:
            found += [f"{path.relative_to(run_dir)}: {e.message}" for e in validator().iter_errors(document)]
    for path in run_dir.glob("attempts/*/**/*.jsonl"):
        records, skipped = read_lines(path)
        found += [f"{path.relative_to(run_dir)}: {e.message}" for r in records for e in validator().iter_errors(r)]
        attempt = int(path.relative_to(run_dir).parts[1])
        if skipped and not (attempt in hit and TORN_LAST.fullmatch(skipped)):
            found.append(f"attempt {attempt}: {skipped}")
    for path in checkpoints:
        files, damage = manifest.read(path)
        if damage := damage or manifest.damage(path, files, files):
            found.append(f"{path.relative_to(run_dir)}: {damage}")
    if not checkpoints or manifest.step_of(checkpoints[0]) != point.config.steps:
        found.append("the last step has no checkpoint")
    # W&B's client and PyTorch's checkpoints have files of such names that are no drafts
    others = [run_dir / "wandb", *checkpoints]
    study = run_dir.parents[1]
    return found + [
        f"{path.relative_to(study)} is left"
        for path in study.rglob("*")
        if (path.name.startswith(".") or path.match("lease*.json")) and not {*others} & {*path.parents}
    ]
