"""What a rank leaves behind that hangs or fails: where its threads stood, what its process groups were at."""

import json
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from harness.place import Place
from harness.plan.dumps import COLLECTED
from harness.recorder import gloo, nccl
from harness.recorder.events import SCHEMA, finite
from harness.recorder.flight import Entry
from harness.recorder.groups import OTHER, Groups, members
from harness.recorder.progress import Progress

LAST_ENTRIES = 50
"""Entries of the flight recorder that are told beside those under way."""

Frames = list[tuple[str, int, str]]
"""File, line and function of each frame, innermost first."""


def threads(raised: TracebackType | None = None) -> list[dict[str, Any]]:
    """The Python stacks of all threads, the one that trains first: where it stands, or where it raised."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main, current = threading.main_thread().ident, sys._current_frames()
    told = []
    for ident in sorted(current, key=lambda ident: ident != main):
        found: Iterable[Any] = traceback.walk_stack(current[ident])
        if ident == main and raised is not None:
            found = reversed(list(traceback.walk_tb(raised)))
        frames: Frames = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in found]
        told.append({"name": names.get(ident, str(ident)), "frames": frames})
    return told


def groups(entries: list[Entry], labels: Mapping[str, tuple[str, int]]) -> list[dict[str, Any]]:
    """The process groups of this rank: name, label, ranks, and the last collective that it has joined.

    `joined` is null where the ring has lost it, 0 where there was none.
    """
    named = Groups(labels)
    wrapped = bool(entries) and entries[0]["record_id"] > 0
    joined = {entry["process_group"][0]: entry["collective_seq_id"] for entry in entries if not entry["is_p2p"]}
    told = []
    for name in dict.fromkeys([*labels, *joined]):
        try:
            label, ranks = named[name][0], members(name)
        except (KeyError, RuntimeError, ValueError):
            label, ranks = OTHER, []  # a group that is gone
        told.append({"name": name, "label": label, "ranks": ranks, "joined": joined.get(name, None if wrapped else 0)})
    return told


def operations(entries: list[Entry]) -> list[dict[str, Any]]:
    """Of the flight recorder's entries those that are under way, and the last of the others."""
    under_way = [entry for entry in entries if not over(entry)]
    last = [entry for entry in entries if over(entry)][-LAST_ENTRIES:]
    return [
        {
            "op": op(entry["profiling_name"]),
            "said": entry["profiling_name"],
            "group": entry["process_group"][0],
            "sequence": entry["p2p_seq_id" if entry["is_p2p"] else "collective_seq_id"],
            "p2p": entry["is_p2p"],
            "state": "completed" if over(entry) else entry["state"],
            "issued": entry["time_created_ns"] / 1e9,
            "sizes": entry["input_sizes"],
            "types": entry["input_dtypes"],
        }
        for entry in last + under_way
    ]


def summary(error: BaseException) -> str:
    """An exception's type and the first line of what it says."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


def over(entry: Entry) -> bool:
    return bool(entry["retired"]) or entry["state"] == "completed"


def op(said: str) -> str:
    """An operation's name in records, from the flight recorder's."""
    word = said.split(" ")[0]
    return nccl.NAMES.get(word) or word.partition(":")[2].removeprefix("_")


def peak_memory(place: Place) -> int:
    """The most bytes that this rank has held: of its GPU by the allocator's count, without one of its host's memory."""
    if place.cuda:
        return torch.cuda.max_memory_allocated(place.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Dump:
    """Writes this rank's dump, the first one that is asked for: what follows from it says less."""

    def __init__(self, folder: Path, attempt: int, place: Place, host: str, progress: Progress) -> None:
        self.folder, self.attempt, self.place, self.host, self.progress = folder, attempt, place, host, progress
        self.labels: Mapping[str, tuple[str, int]] = {}
        self.lock = threading.Lock()
        self.written = False

    def write(self, cause: str, limit_s: float | None = None, error: BaseException | None = None) -> None:
        """First to this host's own disk, then among the attempt's files; never raises.

        cause: `timeout`, `error` of a collective, or `oom`.
        """
        with self.lock:
            if self.written:
                return
            self.written = True
            kept = None
            try:
                told = self.document(cause, limit_s, error)
                kept = Path(tempfile.mkdtemp(prefix="harness-flight-")) / f"rank{self.place.rank}.json"
                kept.write_text(json.dumps(finite(told)) + "\n")
                waits = any(operation["state"] != "completed" for operation in told["operations"])
                if self.place.rank < COLLECTED or not waits:
                    self.collect(kept)
                    shutil.rmtree(kept.parent)
            except Exception as failure:
                there = f"; it is in {kept}" if kept is not None else ""
                sys.stderr.write(f"the dump of rank {self.place.rank} was not collected: {failure}{there}\n")

    def collect(self, kept: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f".{kept.name}"
        try:
            shutil.copyfile(kept, draft)
            draft.rename(self.folder / kept.name)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def document(self, cause: str, limit_s: float | None, error: BaseException | None) -> dict[str, Any]:
        phase, waited_s = self.progress.standing()
        # stacks first, for they move on
        stacks = threads(None if error is None else error.__traceback__)
        there = dist.is_initialized()
        entries = (nccl.dump() if dist.get_backend() == "nccl" else gloo.dump()) if there else []
        return {
            "schema": SCHEMA,
            "kind": "flight",
            "time": time.time(),
            "attempt": self.attempt,
            "rank": self.place.rank,
            "host": self.host,
            "cause": cause,
            "phase": phase,
            "step": self.progress.step,
            "finished": self.progress.finished,
            "waited_s": waited_s,
            "limit_s": limit_s,
            "error": None if error is None else summary(error),
            # a device that hangs may have kept the allocator's lock
            "peak_memory_bytes": peak_memory(self.place) if cause == "oom" else None,
            "threads": stacks,
            "groups": groups(entries, self.labels) if there else [],
            "operations": operations(entries),
        }
