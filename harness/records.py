"""A point's records: how a point stands, and what is written by now."""

from pathlib import Path
from typing import Any

import orjson

from harness.files import regular
from harness.schema import complete

SCHEMA = 1
ACTIVE = ("queued", "running")
OPEN = ("pending", *ACTIVE)
"""Statuses of a point that has not ended; every other one is final."""


class Appended:
    """The records of an attempt's events.jsonl, each once, as they are written; a look costs what is new."""

    def __init__(self, attempt_dir: Path) -> None:
        self._path = attempt_dir / "events.jsonl"
        self._offset = 0

    def new(self) -> list[dict[str, Any]]:
        """The records written since the last call.

        A line without its newline is still being written and stays for a later call. A whole line that is no record
        of this schema, or lacks a field, is passed over; `harness.analysis.read` names it.
        """
        try:
            with open(self._path, "rb", opener=regular) as file:
                file.seek(self._offset)
                whole, newline, _torn = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(newline)
        return [record for record in map(_record, whole.split(b"\n")) if record is not None]


def attempts(run_dir: Path) -> list[Path]:
    """The folders of a point's attempts, in order."""
    folder = run_dir / "attempts"
    entries = folder.iterdir() if folder.is_dir() else ()
    found = (entry for entry in entries if entry.name.isdecimal() and entry.is_dir())
    return sorted(found, key=lambda entry: int(entry.name))


def has_end(attempt_dir: Path) -> bool:
    """Whether an attempt's ranks came to the end of what they were to do."""
    return any(record["kind"] == "end" for record in Appended(attempt_dir).new())


def by_hand(ended: bool) -> str:
    """The status of a point that has none: ranks that were started by hand have no controller to write it.

    ended: whether those of any attempt came to their end.
    """
    return "ok" if ended else "pending"


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = orjson.loads(line)
    except ValueError:
        return None
    ours = isinstance(record, dict) and record.get("schema") == SCHEMA and complete(record)
    return record if ours else None
