"""A point's records: which fields those of each kind have, how a point stands, and what is written by now."""

import functools
import json
import math
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from harness.files import regular

SCHEMA = 1
ACTIVE = ("queued", "running")
OPEN = ("pending", *ACTIVE)
"""Statuses of a point that has not ended; every other one is final."""
LARGEST = 2**63 - 1
"""The largest count that a table's column holds."""
FINITE = sys.float_info.max


@functools.cache
def kinds() -> dict[str, dict[str, Any]]:
    """The schema of each kind of record."""
    found: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("records.schema.json").read_bytes())["$defs"]
    return found


@functools.cache
def required() -> dict[str, frozenset[str]]:
    """The fields that a record of each kind has, by the schema; those of any other kind are under an empty name."""
    return {kind: frozenset({"time", *found.get("required", ())}) for kind, found in {"": {}, **kinds()}.items()}


@functools.cache
def rules(kind: str) -> dict[str, str]:
    """What the schema asks of the fields of a kind of record that has those that it must, as expressions of Python."""
    common = {"time": {"type": "number"}, "attempt": {"type": ["integer", "null"], "minimum": 0}}
    fields = common | kinds().get(kind, {}).get("properties", {})
    return _members({"properties": fields, "required": required()[kind]}, "record")


def _members(schema: dict[str, Any], value: str) -> dict[str, str]:
    """What a schema asks of each property of an object that has the required ones."""
    properties, needed = schema.get("properties", {}), schema.get("required", ())
    asked = {name: _rule(member, f"{value}[{name!r}]") for name, member in properties.items()}
    return {name: rule if name in needed else f"({name!r} not in {value} or {rule})" for name, rule in asked.items()}


def _rule(schema: dict[str, Any], value: str) -> str:
    """An expression that is true of values that are as the schema has them.

    Compiled it takes microseconds a record, of which a study has millions; a validator that reads the schema for each
    takes a hundred times as long. The form of texts is left out: no figure goes by it.
    """
    if refers := schema.get("$ref"):
        return _rule(functools.reduce(operator.getitem, refers.split("/")[2:], kinds()), value)
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else None):
        return f"{value} in {choices!r}"
    told = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if container := {"object": "dict", "array": "list"}.get(told[0]):
        whole = [f"type({value}) is {container}", *(f"{name!r} in {value}" for name in schema.get("required", ()))]
        whole += _members(schema, value).values()
        if others := schema.get("additionalProperties"):
            whole.append(f"all({_rule(others, 'each')} for each in {value}.values())")
        if items := schema.get("items"):
            whole.append(f"all({_rule(items, 'each')} for each in {value})")
        return f"({' and '.join(whole)}{f' or {value} is None' * ('null' in told)})"
    least = schema.get("minimum", math.nextafter(schema.get("exclusiveMinimum", -math.inf), math.inf))
    scalar = {
        "null": "told is None",
        "boolean": "type(told) is bool",
        "integer": f"type(told) is int and {least} <= told <= {schema.get('maximum', LARGEST)}",
        "number": f"type(told) in (int, float) and {least} <= told <= {schema.get('maximum', FINITE)}",
        "string": "type(told) is str",
    }
    return f"({' or '.join(scalar[name] for name in told)})".replace("told", f"(told := {value})", 1)


@functools.cache
def _compiled(rules: tuple[str, ...]) -> Callable[[dict[str, Any]], bool]:
    """A function of a record: whether it is as all of the rules have it."""
    whole: Callable[[dict[str, Any]], bool] = eval(f"lambda record: {' and '.join(rules)}")  # noqa: S307
    return whole


@functools.cache
def _sound(kind: str) -> Callable[[dict[str, Any]], bool]:
    return _compiled(tuple(rules(kind).values()))


def complete(record: dict[str, Any]) -> bool:
    """Whether a record has all its fields, and values that can be."""
    kind = _kind(record)
    return "kind" in record and required()[kind] <= record.keys() and _sound(kind)(record)


def impossible(record: dict[str, Any]) -> list[str]:
    """The fields that are not as the schema has them, such as text for a number, of a record that lacks none."""
    return [name for name, rule in rules(_kind(record)).items() if not _compiled((rule,))(record)]


def _kind(record: dict[str, Any]) -> str:
    """The record's kind; of one that is not known, no more is asked than of every record."""
    kind = str(record.get("kind"))
    return kind if kind in kinds() else ""


def lacking(record: dict[str, Any]) -> list[str]:
    """The fields that this record should have, and has not; of a kind that is not known, a time."""
    if "kind" not in record:
        return ["kind"]
    return sorted(required()[_kind(record)] - record.keys())


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
