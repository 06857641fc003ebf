"""A point's records: which fields those of each kind have, how a point stands, and what is written by now."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import orjson

SCHEMA = 1
ACTIVE = ("queued", "running")
OPEN = ("pending", *ACTIVE)
"""Statuses of a point that has not ended; every other one is final."""


@functools.cache
def kinds() -> dict[str, dict[str, Any]]:
    """The schema of each kind of record."""
    found: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("records.schema.json").read_bytes())["$defs"]
    return found


@functools.cache
def required() -> dict[str, frozenset[str]]:
    """The fields that a record of each kind has, by the schema."""
    return {kind: frozenset({"time", *found.get("required", ())}) for kind, found in kinds().items()}


@functools.cache
def numbers() -> dict[str, tuple[tuple[str, float], ...]]:
    """The fields of each kind of record that are always numbers, each with the least that it can be, by the schema."""
    found: dict[str, tuple[tuple[str, float], ...]] = {}
    for kind, schema in kinds().items():
        fields = [(name, _meant(value)) for name, value in schema.get("properties", {}).items()]
        numbers = [(name, value) for name, value in fields if value.get("type") in ("number", "integer")]
        found[kind] = tuple((name, value.get("minimum", -math.inf)) for name, value in numbers)
    return found


def _meant(value: dict[str, Any]) -> dict[str, Any]:
    """A field's schema, also where it refers to one."""
    refers: str = value.get("$ref", "")
    return kinds()[refers.removeprefix("#/$defs/")] if refers.count("/") == 2 else value


def complete(record: dict[str, Any]) -> bool:
    """Whether a record has all its fields, and times that can be."""
    kind = str(record.get("kind"))
    return "kind" in record and required().get(kind, frozenset()) <= record.keys() and not impossible(record)


def impossible(record: dict[str, Any]) -> list[str]:
    """The fields of a record that are no number where there is always one, or seconds below zero."""
    found = []
    for name, least in (("time", -math.inf), *numbers().get(str(record.get("kind")), ())):
        if name in record:
            value = record[name]
            if type(value) not in (int, float) or not least <= value < math.inf:
                found.append(name)
    return found


def lacking(record: dict[str, Any]) -> list[str]:
    """The fields that this record should have, and has not; of a kind that is not known, nothing is asked."""
    if "kind" not in record:
        return ["kind"]
    return sorted(required().get(str(record["kind"]), frozenset()) - record.keys())


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
            with open(self._path, "rb") as file:
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
