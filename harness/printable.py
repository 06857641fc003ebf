"""Texts of records, which may be a stranger's, as they may stand in a terminal or a file."""

from typing import Any


def printable(value: Any) -> Any:
    """A JSON value whose texts steer no terminal, end no line and turn no direction: what would is written as Python
    escapes it, and space of other kinds as a blank."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(map(_escaped, value))
    if isinstance(value, list):
        return [printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return value


def _escaped(character: str) -> str:
    return character if character.isprintable() else " " if character.isspace() else repr(character)[1:-1]
