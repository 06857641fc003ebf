"""One start of a point's processes, from the command to the last process's end."""

import errno
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.files import write_json
from harness.records import has_end
from harness.study.interruption import Interruption
from harness.study.lease import Lease
from harness.study.outcome import LAUNCHER_LOG, Outcome, outcome, preempted
from launch.local import Tree

POLL_S = 0.25
"""Each look takes a processor from a rank where there is none to spare, and all ranks wait for that one."""
FULL = (errno.ENOSPC, errno.EDQUOT)
TAKEN_OVER = Outcome("preempted", "another controller took the point over after a silence of this one")


@dataclass(frozen=True)
class Deadline:
    """When a point's time is over, by the monotonic clock, and how many seconds it had."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float | None) -> Self | None:
        return None if seconds is None else cls(time.monotonic() + seconds, seconds)


def run_attempt(
    attempt_dir: Path,
    command: list[str],
    start: Callable[[Path], Tree],
    hosts: Sequence[str],
    ranks_per_node: int,
    position: int | None,
    queue_s: float | None,
    deadline: Deadline | None,
    lease: Lease,
    interruption: Interruption,
    watch: Callable[[], None],
    say: Callable[[str], None],
    grace_s: float = 0.0,
) -> Outcome:
    """Start the command, wait for its end or bring it about, and judge it.

    `start` starts it on `hosts`, given the file for its output; `watch` is called while it runs. `grace_s` is how long
    its ranks have for a last checkpoint where an interruption leaves them time.
    """
    record = {
        "schema": 1,
        "kind": "launch",
        "time": time.time(),
        "attempt": int(attempt_dir.name),
        "command": command,
        "host": socket.gethostname(),
        "hosts": list(hosts),
        "position": position,
        "queue_s": queue_s,
    }
    log = attempt_dir / "logs" / LAUNCHER_LOG
    with start(log) as tree:
        write_json(attempt_dir / "launch.json", {**record, "start": tree.started, "end": None, "exit_code": None})
        cut = wait(tree, deadline, lease, interruption, watch, grace_s)
        ended = time.time()
        # Also after a good end: what a rank has left behind must not run beside the next point.
        left = tree.end()
        if left and interruption.signal is None:
            say(f"waiting for what could not be ended: {', '.join(left)}")
        while left and interruption.signal is None:
            left = tree.end()
        if tree.silent:
            say(f"warning: {', '.join(tree.silent)} gave no answer; processes of this point may still run there")
    if cut:
        ended = time.time()
    exit_code = tree.poll()
    if exit_code and cut is None and interruption.signal is not None:
        # Slurm ends both at once, and the command may have been faster
        cut = Outcome("preempted", interruption.reason)
    try:
        write_json(attempt_dir / "launch.json", {**record, "start": tree.started, "end": ended, "exit_code": exit_code})
    except OSError as error:
        # a full disk must not hide what the ranks say of their end
        if error.errno not in FULL:
            raise
    if cut is None:
        assert exit_code is not None
        return outcome(attempt_dir, exit_code, hosts, ranks_per_node)
    if cut.status == "preempted" and cut is not TAKEN_OVER:
        # told to end after its last step it has nothing left to go on with
        cut = Outcome("ok") if has_end(attempt_dir) else preempted(attempt_dir, interruption.name) or cut
    return Outcome(cut.status, f"{cut.reason}; not ended: {', '.join(left)}") if left else cut


def wait(
    tree: Tree,
    deadline: Deadline | None,
    lease: Lease | None,
    interruption: Interruption,
    watch: Callable[[], None],
    grace_s: float = 0.0,
) -> Outcome | None:
    """Wait for the command's own end: None, or how it has to be ended before. Of no study's point there is no lease."""
    told = False
    while tree.poll() is None:
        if interruption.signal is not None:
            since = time.monotonic() - interruption.at
            if not interruption.graceful or since > grace_s:
                return Outcome("preempted", interruption.reason)
            if not told:
                tree.tell()
                told = True
            interruption.granted_s = since
        if lease is not None and lease.lost:
            return TAKEN_OVER
        if deadline is not None and time.monotonic() > deadline.at:
            return Outcome("timeout", f"still running after launcher.timeout_s={deadline.seconds:g}")
        watch()
        time.sleep(POLL_S)
    return None
