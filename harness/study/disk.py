"""A disk that is full, read-only or gone: what a point can still say of itself there."""

import os
from pathlib import Path

from harness.study.attempt import TAKEN_OVER
from harness.study.lease import Lease
from harness.study.outcome import Outcome
from harness.study.rundir import write_status

RESERVE = ".reserve"
RESERVE_BYTES = 64 * 1024


def reserve(run_dir: Path) -> None:
    """Keep some space for the point's last words; random bytes, for zeros take none on some disks."""
    (run_dir / RESERVE).write_bytes(os.urandom(RESERVE_BYTES))


def shortage(run_dir: Path) -> str | None:
    """What is wrong with the disk of a run directory, in words, or None."""
    disk = os.statvfs(run_dir)
    if disk.f_flag & os.ST_RDONLY:
        return f"the disk of {run_dir} is read-only"
    # some have no fixed number of files
    full = disk.f_bavail == 0 or (disk.f_files > 0 and disk.f_favail == 0)
    return f"the disk of {run_dir} is full" if full else None


def conclude(held: Lease, outcome: Outcome, attempt: int) -> Outcome:
    """Write how a held point ended, with what is wrong with its disk; a point that can't say its end has failed."""
    run_dir = held.path.parent
    try:
        # a rank may have made folders of its own there again
        if not (run_dir / "config.yaml").exists():
            return Outcome("failed", f"{run_dir} is gone" + (f"; {outcome.reason}" if outcome != TAKEN_OVER else ""))
        if not held.ours():
            return TAKEN_OVER
        if outcome.status in ("failed", "comm_error") and (why := shortage(run_dir)):
            outcome = Outcome("failed", f"{why}; {outcome.reason}", outcome.rank, outcome.host)
        (run_dir / RESERVE).unlink(missing_ok=True)
        write_status(run_dir, outcome.status, outcome.reason, outcome.rank, outcome.host, attempt=attempt)
    except OSError as error:
        was = f"{outcome.status}: {outcome.reason}" if outcome.reason else outcome.status
        return Outcome(
            "failed", f"how it ended could not be written ({error}); it was {was}", outcome.rank, outcome.host
        )
    return outcome
