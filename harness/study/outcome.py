"""How an attempt ended: its status, one sentence on why, and the rank that failed first."""

import json
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.plan.failures import COMMUNICATION
from harness.quantities import gibibytes
from harness.records import Appended, has_end
from harness.study.diagnosis import diagnose, read

OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|can't allocate memory|^MemoryError")
DIVERGED = re.compile(r"^Diverged\b")
# What torchrun prints of each rank that failed, among them those that it ended itself.
PRINTED = re.compile(
    r"time\s+: (\S+)\s*\n.*\n\s*rank\s+: (\d+) \(local_rank.*\n\s*exitcode\s+: (-?\d+).*\n\s*error_file: (.*)"
)
# What srun says of a host on which it could start nothing, and of tasks that have not ended long after others have.
UNREACHED = re.compile(r"Task launch for \S+ failed on node (\S+): (.*)")
UNENDED = re.compile(r"^srun: StepId=\S+ tasks? (\d+)\S*: running", re.MULTILINE)
# Remarks of torch's, srun's own lines on its ending of the others, and what it prints of each of them.
REMARK = re.compile(r"\[W\d|srun: |slurmstepd")
LAUNCHER_LOG = "launcher.log"


@dataclass(frozen=True)
class Outcome:
    """An attempt's end, as status.json says it."""

    status: str
    reason: str | None = None
    rank: int | None = None
    host: str | None = None


@dataclass(frozen=True)
class Failure:
    """One rank's failure, and what it or its end says; `exit_code` is of one without an exception."""

    rank: int
    text: str
    exit_code: int | None = None

    @property
    def status(self) -> str:
        if OUT_OF_MEMORY.search(self.text):
            return "oom"
        if DIVERGED.search(self.text):
            return "diverged"
        return "comm_error" if COMMUNICATION.search(self.text) else "failed"

    @property
    def explains(self) -> bool:
        """Whether it is a reason by itself: an exception of the rank's own, or a signal. A watchdog ends with 1."""
        return self.status != "comm_error" and (self.exit_code is None or self.exit_code < 0)


def outcome(attempt_dir: Path, exit_code: int, hosts: Sequence[str], ranks_per_node: int) -> Outcome:
    """Judge an attempt on these hosts that ended by itself."""
    whole = has_end(attempt_dir)
    if not whole and (stopped := preempted(attempt_dir)):
        return stopped
    if exit_code == 0:
        return Outcome("ok") if whole else Outcome("failed", "the processes ended well, but the record has no end")
    logs = attempt_dir / "logs"
    exceptions, deaths = raised(logs, ranks_per_node), died(logs, ranks_per_node)
    guilty = first(exceptions, deaths)
    away = lost(logs / LAUNCHER_LOG, hosts)
    if away and (guilty is None or guilty.status == "comm_error"):
        return away
    dumps = read(attempt_dir)
    if guilty is None or not guilty.explains or dumps.get(guilty.rank, {}).get("cause") == "timeout":
        suspect = None if guilty is None else guilty.rank
        hang = diagnose(
            dumps,
            suspect,
            stderr=lambda rank: logs.glob(stderr_of(rank, ranks_per_node)),
            host=lambda rank: where(rank, hosts, ranks_per_node),
        )
        if hang is not None:
            status, host = "comm_error" if hang.communicates else "failed", hosts[hang.rank // ranks_per_node]
            if away and away.host == host and hang.rank not in dumps:
                return Outcome(away.status, f"{away.reason}; {hang.reason}", hang.rank, host)
            return Outcome(status, hang.reason, hang.rank, host)
    if not deaths:
        guilty = wordless(exceptions, dumps, len(hosts) * ranks_per_node) or guilty
    if guilty is None:
        written = [logs / LAUNCHER_LOG, *sorted(logs.glob("node*.log"))]
        said = next(filter(None, (telling_line(log) for log in written[::-1] if log.exists())), "")
        return Outcome("failed", f"the launcher ended with {named(exit_code)}" + (f": {said}" if said else ""))
    after = " (after the end of training)" if whole else ""
    held = peak(dumps, guilty) + snapshot(attempt_dir, guilty)
    said = f"rank {guilty.rank}{where(guilty.rank, hosts, ranks_per_node)}: {guilty.text}{after}{held}"
    return Outcome(guilty.status, said, guilty.rank, hosts[guilty.rank // ranks_per_node])


def where(rank: int, hosts: Sequence[str], ranks_per_node: int) -> str:
    """The host that a rank was on, in words; nothing where there is only one."""
    return f" on {hosts[rank // ranks_per_node]}" if len(hosts) > 1 else ""


def peak(dumps: Mapping[int, Mapping[str, Any]], guilty: Failure) -> str:
    """The most that a rank held that ran out of memory; nothing where it could not say so."""
    told = dumps.get(guilty.rank)
    if guilty.status != "oom" or told is None:
        return ""
    return f"; it had held up to {gibibytes(told['peak_memory_bytes'])} GiB"


def snapshot(attempt_dir: Path, guilty: Failure) -> str:
    """Where it says what a GPU's memory held that ran out; nothing where a rank could not write that."""
    path = attempt_dir / "profile" / f"oom.rank{guilty.rank}.pickle"
    there = guilty.status == "oom" and path.exists()
    return f"; what it held is in {path.relative_to(attempt_dir.parents[1])}" if there else ""


def preempted(attempt_dir: Path, by: str | None = None) -> Outcome | None:
    """The end of an attempt whose ranks have stopped because they were told to; torchrun calls that a failure.

    by: what told the controller to have them stop.
    """
    for record in Appended(attempt_dir).new():
        if record["kind"] == "preempted":
            written = "checkpoint written" if record["checkpoint"] else "no checkpoint written"
            return Outcome(
                "preempted", f"told to end by {by or record['signal']}; stopped after step {record['step']}, {written}"
            )
    return None


def lost(log: Path, hosts: Sequence[str]) -> Outcome | None:
    """What srun knows of a host that could not be reached or went away, from which its peers' failures follow."""
    said = log.read_text(errors="replace") if log.exists() else ""
    if unreached := UNREACHED.search(said):
        host, why = unreached.groups()
        return Outcome("failed", f"{host}: nothing could be started there: {why}", host=host)
    if unended := UNENDED.search(said):
        host = hosts[int(unended.group(1))]
        return Outcome("failed", f"{host}: did not end with the others; it may be down or cut off", host=host)
    return None


def first(raised: list[Failure], died: list[Failure]) -> Failure | None:
    """The failure that the others follow from.

    The earliest exception, unless it only says that a peer is gone and there is a rank that went without a word.
    """
    if raised and not (died and raised[0].status == "comm_error"):
        return raised[0]
    return died[0] if died else None


def wordless(raised: list[Failure], dumps: Mapping[int, Mapping[str, Any]], world_size: int) -> Failure | None:
    """The only rank that left nothing where every other says that a peer is gone.

    It went first, and the others' torchruns ended the job before its own had seen why.
    """
    silent = set(range(world_size)) - {failure.rank for failure in raised}
    if len(silent) != 1 or len(raised) < 2 or any(failure.status != "comm_error" for failure in raised):
        return None
    [rank] = silent
    return None if rank in dumps else Failure(rank, "ended without a word; every other rank then lost its peers")


def raised(logs: Path, ranks_per_node: int) -> list[Failure]:
    """The exceptions of all ranks, earliest first, from the error files that torchrun's `@record` writes.

    Their own time stamps are whole seconds; the files' are finer.
    """
    files = sorted(logs.glob("node*/*/attempt_*/*/error.json"), key=lambda path: path.stat().st_mtime_ns)
    return [Failure(rank_of(path, logs, ranks_per_node), line) for path in files if (line := message(path))]


def rank_of(path: Path, logs: Path, ranks_per_node: int) -> int:
    """The rank that a file below logs/node<k>/ belongs to; torchrun's folders have its number on its host."""
    node = int(path.relative_to(logs).parts[0].removeprefix("node"))
    return node * ranks_per_node + int(path.parent.name)


def message(path: Path) -> str | None:
    """An error file's exception type and the first line of its message; None where the rank died writing it."""
    try:
        found = json.loads(path.read_text())["message"]
    except (ValueError, KeyError, TypeError):
        return None
    text = found["message"] if isinstance(found, dict) else found
    return str(text).strip().split("\n")[0]


def died(logs: Path, ranks_per_node: int) -> list[Failure]:
    """The ranks that ended without an exception, in the order in which torchrun saw them, root cause first."""
    printed = []
    for log in (logs / LAUNCHER_LOG, *sorted(logs.glob("node*.log"))):
        # a torchrun tells its root cause last
        printed += PRINTED.findall(log.read_text(errors="replace"))[::-1] if log.exists() else []
    found = []
    for _, rank, code, error_file in sorted(printed, key=lambda told: told[0]):
        if error_file.strip() == "<N/A>" and int(code) != -signal.SIGTERM:
            # A rank that is killed has no last words; what it said before has nothing to do with it.
            files = [] if int(code) == -signal.SIGKILL else logs.glob(stderr_of(int(rank), ranks_per_node))
            said = next(map(telling_line, files), "")
            text = f"ended with {named(int(code))}" + (f": {said}" if said else "")
            found.append(Failure(int(rank), text, int(code)))
    return found


def stderr_of(rank: int, ranks_per_node: int) -> str:
    node, local_rank = divmod(rank, ranks_per_node)
    return f"node{node}/*/attempt_*/{local_rank}/stderr.log"


def named(code: int) -> str:
    """An exit code in words; real-time signals have no names."""
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"


def telling_line(path: Path) -> str:
    """The line at a log's end that says most: the last that tells of memory or communication, else the very last."""
    lines = [line.strip()[:300] for line in path.read_text(errors="replace").splitlines()[-100:] if line.strip()]
    telling = [line for line in lines if OUT_OF_MEMORY.search(line) or COMMUNICATION.search(line)]
    rest = [line for line in lines if not REMARK.match(line)]
    return (telling or rest or lines or [""])[-1]
