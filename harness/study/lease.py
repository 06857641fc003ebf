"""Who holds a point: an exclusive file in its run directory, kept fresh while its holder lives.

The heartbeat is the file's modification time. A lease that has gone stale is not replaced but outnumbered: the next
holder creates the file of the next generation, exclusively, so that of many contenders exactly one succeeds.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from harness.heartbeat import generation, generations, newest, read, stale, whereabouts
from launch.environment import job_id

BEAT_S = 10.0
PATIENT_S = 0.2


class Lease:
    """A held lease; `with` lets it go at the end. `lost` says that a heartbeat found it to be another's."""

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self.token = token
        self.lost = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            try:
                if self.lost or not self.ours():
                    return
                os.utime(self.path)
            except OSError:  # a file server's hiccup; the lease stays ours until somebody outnumbers it
                continue

    def ours(self) -> bool:
        """Whether the point is still held, by a look at its folder.

        To be asked before anything is written that another holder must not find changed: who was suspended does not
        learn from his heartbeat in time. The name alone says too little, since a point that runs again has a new
        run directory of the same name.
        """
        if newest(self.path.parent) != self.path or (read(self.path) or {}).get("token") != self.token:
            self.lost = True
        return not self.lost

    def stop(self) -> None:
        """End the heartbeat, as before the run directory is moved away."""
        self._done.set()
        self._thread.join()

    def release(self) -> None:
        """Let the point go. Where the disk does not allow it the lease goes stale by itself."""
        self.stop()
        with suppress(OSError):
            if self.ours():
                for path in generations(self.path.parent):  # our own last, so that an older one never counts again
                    if generation(path) <= generation(self.path):
                        path.unlink(missing_ok=True)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def acquire(run_dir: Path) -> Lease | None:
    """Hold the point of this run directory, or None while somebody else does."""
    draft = run_dir / f".lease.{uuid.uuid4().hex}"
    try:
        last = newest(run_dir)
        us = ourselves()
        draft.write_text(json.dumps(us) + "\n")
        if last is not None and not stale(last, now=draft.stat().st_mtime):
            return None
        mine = run_dir / ("lease.json" if last is None else f"lease.{generation(last) + 1}.json")
        os.link(draft, mine)
        return Lease(mine, us["token"])
    except (FileExistsError, FileNotFoundError):  # another was faster: he holds it, or has moved it away
        return None
    finally:
        draft.unlink(missing_ok=True)


def acquire_within(run_dir: Path, patience_s: float, enough: Callable[[], bool] = lambda: False) -> Lease | None:
    """Hold the point, if need be when whoever holds it has let it go or has gone stale.

    None after `patience_s`, or when it is `enough`.
    """
    until = time.monotonic() + patience_s
    while (held := acquire(run_dir)) is None and time.monotonic() < until and not enough():
        time.sleep(PATIENT_S)
    return held


def deserted(run_dir: Path) -> bool:
    """Whether somebody held the point and has disappeared; what runs for it may be ended then."""
    last = newest(run_dir)
    return last is not None and stale(last, now=written_now(run_dir))


def written_now(folder: Path) -> float:
    """The time of a file that is written into the folder now, by the clock of the file server that it lies on."""
    draft = folder / f".lease.{uuid.uuid4().hex}"
    try:
        draft.touch()
        return draft.stat().st_mtime
    except OSError:  # a full disk; the clock of this host serves as well, mostly
        return time.time()
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def ourselves() -> dict[str, Any]:
    """This process, as a lease names it."""
    return {
        "schema": 1,
        "kind": "lease",
        "time": time.time(),
        **whereabouts(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "job": job_id(),
        "token": uuid.uuid4().hex,
    }
