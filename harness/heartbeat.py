"""Who holds a point, by the newest lease in its run directory: the file's modification time is the heartbeat."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from harness.files import read_json

STALE_S = 60.0


def holder(run_dir: Path) -> dict[str, Any] | None:
    """Who holds the point now, or None where nobody does or he has disappeared."""
    last = newest(run_dir)
    return None if last is None or stale(last, now=time.time()) else read(last)


def stale(path: Path, now: float) -> bool:
    """Whether the holder is gone: known to be dead on this machine, or silent for too long.

    `now` is best taken from a file just written beside the lease, since a file server has a clock of its own.
    """
    try:
        beat = path.stat().st_mtime
    except FileNotFoundError:
        return False
    found = read(path)
    if found and found.items() >= whereabouts().items():
        return not alive(found)
    return now - beat > STALE_S


def alive(found: dict[str, Any]) -> bool:
    """Whether the process of a lease on this machine still runs; a later process may have got its number."""
    try:
        return abs(psutil.Process(found["pid"]).create_time() - found["started"]) < 1
    except psutil.NoSuchProcess:
        return False


def whereabouts() -> dict[str, str]:
    """Where a process number means this process.

    Process numbers mean something only within their namespace. All hosts name their first namespace alike and may
    share a host name too: the boot tells them apart.
    """
    return {
        "host": socket.gethostname(),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "namespace": os.readlink("/proc/self/ns/pid"),
    }


def read(path: Path) -> dict[str, Any] | None:
    """A lease's content, or None where it has been let go meanwhile or is damaged."""
    try:
        return read_json(path)
    except ValueError:
        return None


def generation(path: Path) -> int:
    return 0 if path.name == "lease.json" else int(path.name.split(".")[1])


def generations(run_dir: Path) -> list[Path]:
    """The leases of a run directory, oldest first."""
    return sorted(run_dir.glob("lease*.json"), key=generation)


def newest(run_dir: Path) -> Path | None:
    return next(reversed(generations(run_dir)), None)
