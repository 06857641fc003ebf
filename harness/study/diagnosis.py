"""Who kept the others waiting: the dumps that ranks left behind when they hung, read together."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.files import read_json
from harness.plan.dumps import COLLECTED
from launch.environment import SOURCE

Record = dict[str, Any]

FOREIGN = re.compile(r"/site-packages/|/dist-packages/|/lib/python3\.\d+/|^<")
"""Files of frames that are neither the harness's nor a person's."""

WAITS = re.compile(r"/torch/(distributed|autograd)/")
"""Where a thread of Python's stands that waits for a collective: in c10d, or in a backward that does."""

# What faulthandler prints of a process whose interpreter was kept; the main thread comes last.
PRINTED = re.compile(r"^Timeout \(\d+:\d+:\d+.*?\)!\n(.*)", re.DOTALL | re.MULTILINE)
PRINTED_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)

POINT_TO_POINT = re.compile(r":(send|recv) \d+(?:->|<-)(\d+)")
"""As the flight recorder names a send and a receive, with the peer's number in the group."""


@dataclass(frozen=True)
class Hang:
    """The rank that the others waited for, what is to be said of it, and whether anyone waited in a collective."""

    rank: int
    reason: str
    communicates: bool


@dataclass(frozen=True)
class Wait:
    """One rank waits for another, in an operation of a group."""

    rank: int
    peer: int
    operation: Record
    group: Record

    @property
    def words(self) -> str:
        group, operation = self.group, self.operation
        return f"{operation['op']} {operation['sequence']} of {group['label']} ({len(group['ranks'])} ranks)"


def read(attempt_dir: Path) -> dict[int, Record]:
    """The dumps of an attempt by rank; one that is torn tells nothing."""
    found = {}
    for path in (attempt_dir / "flight").glob("rank*.json"):
        try:
            told = read_json(path)
        except (ValueError, OSError):
            continue
        if told is not None and isinstance(told.get("rank"), int):
            found[told["rank"]] = told
    return found


def diagnose(
    dumps: dict[int, Record], suspect: int | None, stderr: Callable[[int], Iterable[Path]], host: Callable[[int], str]
) -> Hang | None:
    """What the ranks hung on, or None where none did.

    suspect: a rank that ended without a word. stderr: what a rank printed. host: what is added to a rank's number where
    there are several hosts.
    """

    def name(rank: int) -> str:
        return f"rank {rank}{host(rank)}"

    late = {rank: told for rank, told in dumps.items() if told["cause"] == "timeout"}
    if not late:
        if suspect is not None and (frames := printed(stderr(suspect))):
            at = stood(frames)
            return Hang(suspect, f"{name(suspect)} kept the interpreter and showed no sign of progress; {at}", False)
        return None
    limit = max(told["limit_s"] for told in late.values())

    def where(rank: int) -> str:
        frames = stack(dumps[rank]) if rank in dumps else printed(stderr(rank))
        return stood(frames) if frames else "it left no dump"

    waits = [wait for told in dumps.values() for wait in waits_of(told, dumps)]
    communicates = bool(waits) or any(waiting(told) for told in late.values())
    if odd := mismatch(dumps):
        rank, words = odd
        return Hang(rank, f"{name(rank)} called {words}; {where(rank)}", True)
    waiters = {wait.rank for wait in waits}
    ends = [wait for wait in waits if wait.peer not in waiters]
    if ends:
        first = min(ends, key=lambda wait: (wait.operation["issued"], wait.peer))
        absent = sorted({wait.peer for wait in ends if wait.words == first.words})
        more = f" (nor did {listed(absent[1:])})" if absent[1:] else ""
        when = moment(dumps.get(absent[0]) or dumps[first.rank])
        said = f"{name(absent[0])} did not join {first.words} within {limit:g} s, {when}{more}; {where(absent[0])}"
        return Hang(absent[0], said, True)
    if waits:
        first = min(waits, key=lambda wait: wait.operation["issued"])
        after = next(wait for wait in waits if wait.rank == first.peer)
        said = (
            f"{name(first.rank)} waited in {first.words} for {name(first.peer)}, which waited in {after.words} for "
            f"{name(after.peer)}; {where(first.rank)}"
        )
        return Hang(first.rank, said, True)
    if behind := not_started(late):
        rank, words = behind
        return Hang(rank, f"the device of {name(rank)} did not come to {words} within {limit:g} s; {where(rank)}", True)
    # nobody can say who waited for whom: the rank that stood elsewhere than in a collective
    rank = min(late, key=lambda rank: (waiting(late[rank]), rank))
    said = f"{name(rank)} showed no sign of progress within {limit:g} s, {moment(late[rank])}; {where(rank)}"
    return Hang(rank, said, communicates)


def waits_of(told: Record, dumps: dict[int, Record]) -> list[Wait]:
    """For whom a rank waited: in each group those who had not joined the first operation that was under way."""
    found = []
    for group in told["groups"]:
        own = [operation for operation in under_way(told) if operation["group"] == group["name"]]
        first = next((operation for operation in own if not operation["p2p"]), None)
        if first is not None:
            found += [
                Wait(told["rank"], peer, first, group)
                for peer in group["ranks"]
                if peer != told["rank"] and lacks(dumps.get(peer), peer, group, first["sequence"])
            ]
        for operation in own:
            peer = peer_of(operation, group)
            if peer in dumps and not any(peer_of(o, group) == told["rank"] for o in under_way(dumps[peer])):
                found.append(Wait(told["rank"], peer, operation, group))
    return found


def under_way(told: Record) -> list[Record]:
    """The operations that a rank had not finished, by sequence."""
    open_ones = [operation for operation in told["operations"] if operation["state"] != "completed"]
    return sorted(open_ones, key=lambda operation: operation["sequence"])


def lacks(told: Record | None, rank: int, group: Record, sequence: int) -> bool:
    """Whether a rank had not joined a collective of a group, by its own dump or for want of one."""
    if told is None:
        return rank < COLLECTED
    own = next((own for own in told["groups"] if (own["name"], own["ranks"]) == (group["name"], group["ranks"])), None)
    return own is None or (own["joined"] is not None and own["joined"] < sequence)


def peer_of(operation: Record, group: Record) -> int:
    """The rank at the other end of a send or a receive of a group; -1 of anything else."""
    found = POINT_TO_POINT.search(operation["said"])
    if not operation["p2p"] or operation["group"] != group["name"] or not found:
        return -1
    ranks: list[int] = group["ranks"]
    return ranks[int(found.group(2))]


def mismatch(dumps: dict[int, Record]) -> tuple[int, str] | None:
    """A rank that called another operation than the most did of its group, and both in words."""
    called: dict[tuple[Any, ...], list[tuple[int, str, Record]]] = {}
    for rank, told in dumps.items():
        for group in told["groups"]:
            for operation in under_way(told):
                if operation["group"] == group["name"] and not operation["p2p"]:
                    key = (group["name"], *group["ranks"], operation["sequence"])
                    called.setdefault(key, []).append((rank, operation["op"], group))
    for key, calls in called.items():
        ops = [op for _, op, _ in calls]
        usual = max(sorted(set(ops)), key=ops.count)
        for rank, op, group in sorted(calls, key=lambda call: call[0]):
            if op != usual:
                return rank, f"{op} as operation {key[-1]} of {group['label']}, where the others called {usual}"
    return None


def not_started(dumps: dict[int, Record]) -> tuple[int, str] | None:
    """A rank whose device had not come to the operation that those of others were in, and that operation in words."""
    for told in dumps.values():
        for group in told["groups"]:
            for operation in under_way(told):
                if operation["group"] != group["name"] or operation["state"] != "started":
                    continue
                for rank in group["ranks"]:
                    for other in under_way(dumps.get(rank, {"operations": []})):
                        same = (other["group"], other["sequence"]) == (operation["group"], operation["sequence"])
                        if same and other["p2p"] == operation["p2p"] and other["state"] == "scheduled":
                            return rank, Wait(told["rank"], rank, operation, group).words
    return None


def stack(told: Record) -> list[Sequence[Any]]:
    """The frames of the thread that trains, innermost first."""
    frames: list[Sequence[Any]] = told["threads"][0]["frames"] if told["threads"] else []
    return frames


def waiting(told: Record) -> bool:
    """Whether the thread that trains stood in a collective, or in a backward that waits for one."""
    frames = stack(told)
    return bool(frames) and WAITS.search(frames[0][0]) is not None


def printed(logs: Iterable[Path]) -> list[Sequence[Any]]:
    """The main thread's frames that faulthandler printed when an interpreter was kept; none where it did not."""
    for log in logs:
        if found := PRINTED.search(log.read_text(errors="replace")):
            return PRINTED_FRAME.findall(re.split(r"^(?:Current )?[Tt]hread ", found.group(1), flags=re.MULTILINE)[-1])
    return []


def stood(frames: Sequence[Sequence[Any]]) -> str:
    """Where a rank stood: the innermost frame of the harness's or of a person's own code."""
    file, line, function = next((frame for frame in frames if not FOREIGN.search(frame[0])), frames[0])
    return f"it stood in {str(file).removeprefix(f'{SOURCE}/')}:{line} {function}"


def moment(told: Record) -> str:
    """What a rank was at."""
    if told["phase"] == "step":
        return f"in step {told['step'] + 1}" if told["step"] is not None else "in its steps"
    return "in its first step" if told["phase"] == "compile_and_first_step" else f"in {told['phase']}"


def listed(ranks: Sequence[int]) -> str:
    """`rank 3`, `ranks 3 and 4`, `ranks 3, 4, 5 and 9 more`."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown, rest = ranks[:3], len(ranks) - 3
    words = [str(rank) for rank in shown] + ([f"{rest} more"] if rest > 0 else [])
    return f"ranks {', '.join(words[:-1])} and {words[-1]}"
