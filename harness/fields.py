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
    """Raise ValueError for the first field outside its limits."""
    for key, item in walk():
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        limits = item.metadata
        if value is None:
            continue
        if key == "study" or key.endswith(".name"):
            check_name(key, value)
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
