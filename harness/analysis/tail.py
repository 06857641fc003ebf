"""The lines of a point's attempts/*/events.jsonl, each once, as they are written."""

from pathlib import Path

import orjson

from harness.analysis.read import Record, complete


class Tail:
    """Remembers how many bytes of each attempt's file were read, so that a poll costs what is new."""

    def __init__(self, run_dir: Path) -> None:
        self._attempts = run_dir / "attempts"
        self._offsets: dict[int, int] = {}

    def read(self) -> list[tuple[int, Record]]:
        """The records written since the last call, with their attempt, in the order of attempts.

        A line without its newline is still being written and stays for a later call. A whole line that is no
        record, or lacks a field, is passed over; `harness.analysis.read` names it.
        """
        found: list[tuple[int, Record]] = []
        for attempt in self._numbers():
            found += [(attempt, record) for record in map(_record, self._lines(attempt)) if record is not None]
        return found

    def _numbers(self) -> list[int]:
        if not self._attempts.is_dir():
            return []
        return sorted(int(entry.name) for entry in self._attempts.iterdir() if entry.name.isdecimal())

    def _lines(self, attempt: int) -> list[bytes]:
        offset = self._offsets.get(attempt, 0)
        try:
            with open(self._attempts / str(attempt) / "events.jsonl", "rb") as file:
                file.seek(offset)
                whole, newline, _torn = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offsets[attempt] = offset + len(whole) + len(newline)
        return whole.split(b"\n") if newline else []


def _record(line: bytes) -> Record | None:
    try:
        record = orjson.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and complete(record) else None
