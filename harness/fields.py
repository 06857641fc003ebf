"""The fields of the schema in harness.config: their dotted keys, how a person reads them, and their limits."""

import difflib
import functools
import math
import re
import types
import typing
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from omegaconf import MISSING as FROM_GROUP

from harness.config import Config


@functools.cache
def walk(kind: type = Config, prefix: str = "") -> list[tuple[str, Field[Any]]]:
    """Every key of the schema, dotted, with its field."""
    found = []
    for item in fields(kind):
        if is_dataclass(item.type):
            found += walk(typing.cast(type, item.type), f"{prefix}{item.name}.")
        else:
            found.append((prefix + item.name, item))
    return found


def describe(item: Field[Any]) -> str:
    """A field's type as a person reads it: `int`, `str or null`, `weak|strong`."""
    if choices := item.metadata.get("choices"):
        return "|".join(choices)
    if form := item.metadata.get("form"):
        return str(form)
    if isinstance(item.type, types.UnionType):
        return " or ".join("null" if part is type(None) else part.__name__ for part in item.type.__args__)
    return getattr(item.type, "__name__", str(item.type)) if not typing.get_origin(item.type) else "mapping"


def default(item: Field[Any]) -> Any:
    """A field's default, or None where its group's file gives the value."""
    if item.default is MISSING or item.default == FROM_GROUP:
        return None
    return item.default


def meaning(item: Field[Any]) -> str:
    """A field's help line, behind the kinds of its group that have a use for it, where not all have."""
    of = item.metadata.get("of")
    return f"{', '.join(of)}: {item.metadata['help']}" if of else str(item.metadata["help"])


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean 'x'?` for a misspelt word, or nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def check_name(key: str, value: str) -> None:
    """Raise ValueError for a name that cannot be part of folders, job names and web addresses."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError(
            f"{key}={value}: must be 1 to 64 letters, digits, '.', '_' or '-', and must not begin with '.' or '-'"
        )


def check_fields(config: Config) -> None:
    """Raise ValueError for a name that cannot be one, and for the first field outside its limits."""
    for key, _ in walk():
        if key == "study" or key.endswith(".name"):
            check_name(key, _value(config, key))
    check_limits(config)


def check_limits(config: Config) -> None:
    """Raise ValueError for the first field of another type, or outside its limits."""
    for key, item in walk():
        value, limits = _value(config, key), item.metadata
        if not _is(value, item.type):
            raise ValueError(f"{key}={value}: must be {describe(item)}")
        if value is None:
            continue
        # Infinity would pass every lower limit, and nan trains to nothing.
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}={value}: must be a finite number")
        choices = limits.get("choices")
        if choices and value not in choices:
            raise ValueError(f"{key}={value}: choose one of {', '.join(choices)}{nearest(str(value), list(choices))}")
        if "least" in limits and not value >= limits["least"]:
            raise ValueError(f"{key}={value}: must be at least {limits['least']}")
        if "most" in limits and not value <= limits["most"]:
            raise ValueError(f"{key}={value}: must be at most {limits['most']}")
        if "above" in limits and not value > limits["above"]:
            raise ValueError(f"{key}={value}: must be above {limits['above']}")
        if "below" in limits and not value < limits["below"]:
            raise ValueError(f"{key}={value}: must be below {limits['below']}")


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's type; an integer is a float as well, and keys are text."""
    parts = kind.__args__ if isinstance(kind, types.UnionType) else (typing.get_origin(kind) or kind,)
    if isinstance(value, dict):
        return dict in parts and all(isinstance(key, str) for key in value)
    return Any in parts or type(value) in parts or (type(value) is int and float in parts)
