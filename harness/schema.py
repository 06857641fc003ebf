"""Whether a record is as records.schema.json has it.

The schema is compiled into Python: a step's record takes a microsecond, and a study has millions. A library's compiled
validators (fastjsonschema) take 3 to 20 times as long, for they say what is wrong where here it is only asked whether.
"""

import functools
import json
import math
import operator
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any


@functools.cache
def _kinds() -> dict[str, dict[str, Any]]:
    """The schema of each kind of record."""
    found: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("records.schema.json").read_bytes())["$defs"]
    return found


def _needed(kind: str) -> frozenset[str]:
    """The fields that a record of a kind has, by the schema."""
    return frozenset({"time", *_kinds().get(kind, {}).get("required", ())})


@functools.lru_cache
def _rules(kind: str) -> dict[str, str]:
    """What the schema asks of the fields of a kind of record, as expressions of Python; of a kind that is not known, no
    more than of every record."""
    common = {"time": {"type": "number"}, "attempt": {"type": ["integer", "null"], "minimum": 0}}
    fields = common | _kinds().get(kind, {}).get("properties", {})
    return _members({"properties": fields, "required": _needed(kind)}, "record")


def _members(schema: dict[str, Any], value: str) -> dict[str, str]:
    """What a schema asks of each property of an object; KeyError where a required one is not there."""
    properties, needed = schema.get("properties", {}), schema.get("required", ())
    asked = {name: _rule(member, f"{value}[{name!r}]") for name, member in properties.items()}
    return {name: rule if name in needed else f"({name!r} not in {value} or {rule})" for name, rule in asked.items()}


def _rule(schema: dict[str, Any], value: str) -> str:
    """An expression that is true of values that are as the schema has them, and of others false, a KeyError or a
    TypeError.

    The form of texts is left out: no figure goes by it.
    """
    schema = _meant(schema)
    if choices := _choices(schema):
        return f"{value} in {choices!r}"
    told = _types(schema)
    if container := {"object": "dict", "array": "list"}.get(told[0]):
        whole = [f"type({value}) is {container}", *_members(schema, value).values()]
        whole += [
            f"{name!r} in {value}" for name in schema.get("required", ()) if name not in schema.get("properties", ())
        ]
        if others := schema.get("additionalProperties"):
            whole.append(_all(others, f"{value}.values()"))
        if items := schema.get("items"):
            whole.append(_all(items, value))
        return f"({' and '.join(whole)}{f' or {value} is None' * ('null' in told)})"
    limits = [f"{least} <= told" for least in _least(schema)] + [f"told <= {most}" for most in _most(schema)]
    whole = [f"type(told) in ({_classes(told)},)", *limits]
    nothing = " or told is None" * ("null" in told)
    return f"({' and '.join(whole)}{nothing})".replace("told", f"(told := {value})", 1)


def _all(schema: dict[str, Any], values: str) -> str:
    """The same of each of several values: of plain ones at once."""
    schema = _meant(schema)
    if choices := _choices(schema):
        return f"{set(choices)!r}.issuperset({values})"
    told = _types(schema)
    if told[0] in ("object", "array"):
        return f"all({_rule(schema, 'each')} for each in {values})"
    known = f"filter(None, {values})" if "null" in told else values  # zeros are within the limits of what may be null
    limits = [f"{least} <= min({known}, default={least})" for least in _least(schema)]
    limits += [f"max({known}, default={most}) <= {most}" for most in _most(schema)]
    nothing = ", NoneType" * ("null" in told)
    return " and ".join([f"{{{_classes(told)}{nothing}}}.issuperset(map(type, {values}))", *limits])


def _meant(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema, or the one that it refers to."""
    refers: str = schema.get("$ref", "")
    return functools.reduce(operator.getitem, refers.split("/")[2:], _kinds()) if refers else schema


def _choices(schema: dict[str, Any]) -> list[Any] | None:
    return schema.get("enum", [schema["const"]] if "const" in schema else None)


def _types(schema: dict[str, Any]) -> list[str]:
    return [schema["type"]] if isinstance(schema["type"], str) else schema["type"]


def _classes(types: list[str]) -> str:
    names = {"boolean": "bool", "integer": "int", "number": "int, float", "string": "str"}
    return ", ".join(names[name] for name in types if name != "null")


def _least(schema: dict[str, Any]) -> list[float]:
    """The least that a number may be, if there is one; without a limit it is finite all the same, or no JSON."""
    found = [schema["minimum"]] if "minimum" in schema else []
    return [*found, math.nextafter(schema["exclusiveMinimum"], math.inf)] if "exclusiveMinimum" in schema else found


def _most(schema: dict[str, Any]) -> list[float]:
    return [schema["maximum"]] if "maximum" in schema else []


@functools.cache
def _compiled(rules: tuple[str, ...]) -> Callable[[dict[str, Any]], bool]:
    """A function of a record: whether it is as all of the rules have it."""
    whole: Callable[[dict[str, Any]], bool] = eval(  # noqa: S307
        f"lambda record: {' and '.join(rules)}", {"NoneType": NoneType}
    )
    return whole


@functools.lru_cache
def _sound(kind: str) -> Callable[[dict[str, Any]], bool]:
    return _compiled(tuple(_rules(kind).values()))


def _fits(check: Callable[[dict[str, Any]], bool], record: dict[str, Any]) -> bool:
    try:
        return check(record)
    except (KeyError, TypeError):
        return False


def complete(record: dict[str, Any]) -> bool:
    """Whether a record has all its fields, and values that can be."""
    return "kind" in record and _fits(_sound(str(record["kind"])), record)


def impossible(record: dict[str, Any]) -> list[str]:
    """The fields that are not as the schema has them, such as text for a number, of a record that lacks none."""
    return [name for name, rule in _rules(str(record.get("kind"))).items() if not _fits(_compiled((rule,)), record)]


def lacking(record: dict[str, Any]) -> list[str]:
    """The fields that this record should have, and has not; of a kind that is not known, a time."""
    if "kind" not in record:
        return ["kind"]
    return sorted(_needed(str(record["kind"])) - record.keys())
