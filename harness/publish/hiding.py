"""A study's files without absolute paths: they tell of whoever ran it, and lead nowhere on another machine."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.analysis.read import parsed

UNREADABLE = (ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError)
"""What reading and rewriting a stranger's file may raise; one that nests without end is hidden as a text."""

# A slash that begins a path: not one within a word, an address, a relative path or a tag, and not one that stands alone
# (`tokens/s`, `https://…`, `../x`, `</p>`, `a / b`); behind an option of one letter it does (`-I/usr/include`).
BEGIN = r"(?:(?<=file://)|(?<=[\s\"']-[A-Za-z])|(?<=^-[A-Za-z])|(?<![\w.~/<\]-]))"
SLASH = r"/(?=[\w.]{2}|[\w.]/)"
END = r"\s\"'`,;:|<>()\[\]{}=*?!$&#\\"
"""What ends a path in a text, although a name may hold it."""
ALONE = r"[^:;,=\n]+"
"""What a path may hold that is all of a text, or of what stands in quotes."""


def pattern(known: Iterable[str] = ()) -> re.Pattern[str]:
    """What finds absolute paths in a text; in one that leads through the folders of a known path, names may hold all
    that they hold there, such as spaces."""
    folders = {found[0] for path in known if (found := re.match(rf"/.*[{END}][^/]*", path))}
    first = "|".join([*map(re.escape, sorted(folders, key=len, reverse=True)), rf"{SLASH}[^{END}]"])
    return re.compile(rf"{BEGIN}(?:(?<=([\"'`])){SLASH}{ALONE}?(?=\1)|(?:{first})[^{END}]*)")


PATHS = pattern()


def known(text: str) -> list[str]:
    """The paths that stand alone in a JSON or YAML file; none of one that is neither."""
    for read in (json.loads, parsed):
        with suppress(*UNREADABLE):
            return list(_alone(read(text)))
    return []


def of_text(text: str, paths: re.Pattern[str] = PATHS) -> str:
    """Any text, each absolute path in it as `path-` and the start of its SHA-256: equal ones stay equal."""
    return _named(text) if _is_path(text) else paths.sub(lambda found: _named(found[0]), text)


def of_value(value: Any, paths: re.Pattern[str] = PATHS) -> Any:
    """A JSON value, keys included."""
    if isinstance(value, str):
        return of_text(value, paths)
    if isinstance(value, list):
        return [of_value(item, paths) for item in value]
    if isinstance(value, dict):
        return {of_text(str(key), paths): of_value(item, paths) for key, item in value.items()}
    return value


def of_document(text: str, paths: re.Pattern[str] = PATHS) -> str:
    """A JSON file; one that is none, as any text."""
    return _rewritten(text, paths, indent=2)


def of_lines(lines: Iterable[str], paths: re.Pattern[str] = PATHS) -> Iterator[str]:
    """A file of JSON lines, one after the other; a torn one as any text."""
    for line in lines:
        body = line.rstrip("\n")
        yield _rewritten(body, paths) + line[len(body) :]


def of_yaml(text: str, paths: re.Pattern[str] = PATHS) -> str:
    """A point's configuration; one that is none, as any text."""
    try:
        values = parsed(text)
        if not isinstance(values, dict):
            return of_text(text, paths)
        hidden = of_value(values, paths)
        # as it was written: strings that look like numbers keep their quotes
        return text if hidden == values else OmegaConf.to_yaml(OmegaConf.create(hidden))
    except UNREADABLE:
        return of_text(text, paths)


def _alone(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from [value] * _is_path(value)
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _alone(item)


def _is_path(text: str) -> bool:
    return text.startswith("/") and re.fullmatch(ALONE, text) is not None


def _rewritten(text: str, paths: re.Pattern[str], indent: int | None = None) -> str:
    """JSON text, as it was where there is nothing to hide: most records have no slash, and needn't be parsed."""
    if "/" not in text:
        return text
    try:
        value = json.loads(text)
        hidden = of_value(value, paths)
        return text if hidden == value else json.dumps(hidden, indent=indent)
    except UNREADABLE:
        return of_text(text, paths)


def _named(path: str) -> str:
    whole = path.rstrip(".")
    return f"path-{hashlib.sha256(whole.encode()).hexdigest()[:8]}{path[len(whole) :]}"
