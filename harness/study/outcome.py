"""How an attempt ended: its status, one sentence on why, and the rank that failed first."""

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from harness.study.events import Events

OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|can't allocate memory|^MemoryError")
COMMUNICATION = re.compile(
    r"Dist(Backend|Network|Store)Error|\bnccl|gloo/|Connection (closed|reset) by peer|Watchdog caught collective",
    re.IGNORECASE,
)
DIVERGED = re.compile(r"^Diverged\b")
# What torchrun prints of each rank that failed, among them those that it ended itself.
PRINTED = re.compile(r"rank\s+: (\d+) \(local_rank.*\n\s*exitcode\s+: (-?\d+).*\n\s*error_file: (.*)")
LAUNCHER_LOG = "launcher.log"


@dataclass(frozen=True)
class Outcome:
    """An attempt's end, as status.json says it."""

    status: str
    reason: str | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Failure:
    """One rank's failure, and what it or its end says."""

    rank: int
    text: str

    @property
    def status(self) -> str:
        if OUT_OF_MEMORY.search(self.text):
            return "oom"
        if DIVERGED.search(self.text):
            return "diverged"
        return "comm_error" if COMMUNICATION.search(self.text) else "failed"


def outcome(attempt_dir: Path, exit_code: int) -> Outcome:
    """Judge an attempt that ended by itself."""
    ended = any(record["kind"] == "end" for record in Events(attempt_dir / "events.jsonl").new())
    if exit_code == 0:
        return Outcome("ok") if ended else Outcome("failed", "the processes ended well, but the record has no end")
    guilty = first(raised(attempt_dir / "logs"), died(attempt_dir / "logs"))
    if guilty is None:
        log = attempt_dir / "logs" / LAUNCHER_LOG
        said = telling_line(log) if log.exists() else ""
        return Outcome("failed", f"the launcher ended with {named(exit_code)}" + (f": {said}" if said else ""))
    after = " (after the end of training)" if ended else ""
    return Outcome(guilty.status, f"rank {guilty.rank}: {guilty.text}{after}", guilty.rank)


def first(raised: list[Failure], died: list[Failure]) -> Failure | None:
    """The failure that the others follow from.

    The earliest exception, unless it only says that a peer is gone and there is a rank that went without a word.
    """
    if raised and not (died and raised[0].status == "comm_error"):
        return raised[0]
    return died[0] if died else None


def raised(logs: Path) -> list[Failure]:
    """The exceptions of all ranks, earliest first, from the error files that torchrun's `@record` writes.

    Their own time stamps are whole seconds; the files' are finer.
    """
    files = sorted(logs.glob("*/attempt_*/*/error.json"), key=lambda path: path.stat().st_mtime_ns)
    return [Failure(int(path.parent.name), line) for path in files if (line := message(path))]


def message(path: Path) -> str | None:
    """An error file's exception type and the first line of its message; None where the rank died writing it."""
    try:
        found = json.loads(path.read_text())["message"]
    except (ValueError, KeyError, TypeError):
        return None
    text = found["message"] if isinstance(found, dict) else found
    return str(text).strip().split("\n")[0]


def died(logs: Path) -> list[Failure]:
    """The ranks that ended without an exception, in the order in which torchrun saw them, root cause first."""
    log = logs / LAUNCHER_LOG
    found = []
    for rank, code, error_file in PRINTED.findall(log.read_text(errors="replace") if log.exists() else ""):
        if error_file.strip() == "<N/A>" and int(code) != -signal.SIGTERM:
            # A rank that is killed has no last words; what it said before has nothing to do with it.
            files = [] if int(code) == -signal.SIGKILL else logs.glob(f"*/attempt_*/{rank}/stderr.log")
            said = next(map(telling_line, files), "")
            found.append(Failure(int(rank), f"ended with {named(int(code))}" + (f": {said}" if said else "")))
    return found[::-1]


def named(code: int) -> str:
    """An exit code in words."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def telling_line(path: Path) -> str:
    """The line at a log's end that says most: the last that tells of memory or communication, else the very last."""
    lines = [line.strip()[:300] for line in path.read_text(errors="replace").splitlines()[-100:] if line.strip()]
    telling = [line for line in lines if OUT_OF_MEMORY.search(line) or COMMUNICATION.search(line)]
    return (telling or lines or [""])[-1]
