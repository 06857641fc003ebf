"""A point's attempts: their folders and numbers, which endings another one may follow, and how far they got."""

from pathlib import Path
from typing import Any

from harness.config import Config
from harness.records import Appended, attempts

AGAIN = ("failed", "comm_error", "preempted")
"""Endings after which a point may be started again by itself: what ended it need not come again."""
LEFT = (*AGAIN, "timeout", "queued", "running")
"""What a point with checkpoints goes on from; a running one that is held anew has lost its controller."""
LONGEST_PAUSE_S = 60.0
FRUITLESS = 3
"""So many attempts in a row without a step more, and a job does not ask for its next start itself."""


def attempt_dir(run_dir: Path, number: int) -> Path:
    return run_dir / "attempts" / str(number)


def numbers(run_dir: Path) -> list[int]:
    """The attempts that were started, or were about to be."""
    return [int(folder.name) for folder in attempts(run_dir)]


def following(run_dir: Path) -> int:
    """The number of a point's next start; a folder in which nothing was started is taken again."""
    last = max(numbers(run_dir), default=-1)
    begun = last >= 0 and any(path.is_file() for path in (attempt_dir(run_dir, last) / "logs").rglob("*"))
    return last + 1 if begun or (attempt_dir(run_dir, max(last, 0)) / "events.jsonl").exists() else max(last, 0)


def goes_on(config: Config, status: dict[str, Any] | None) -> bool:
    """Whether a point that has attempts takes up where they ended, instead of from the start in a new folder."""
    return config.checkpoint.kind != "none" and not config.rerun and status is not None and status["status"] in LEFT


def pause_s(restarts: int) -> float:
    """Seconds to wait before a restart: one, and twice as long after each that has been."""
    return min(2.0**restarts, LONGEST_PAUSE_S)


def reached(run_dir: Path, number: int) -> int:
    """The last step that an attempt has recorded, 0 where there is none."""
    records = Appended(attempt_dir(run_dir, number)).new()
    return max((record["step"] for record in records if record["kind"] == "step"), default=0)


def fruitless(run_dir: Path) -> int:
    """How many attempts in a row, up to the latest, got no step further than those before."""
    best = count = 0
    for number in numbers(run_dir):
        now = reached(run_dir, number)
        count = 0 if now > best else count + 1
        best = max(best, now)
    return count
