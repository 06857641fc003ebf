"""A study's files without absolute paths: they tell of whoever ran it, and lead nowhere on another machine."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from omegaconf import OmegaConf

# A slash that begins a path: not one within a word, an address, a relative path or a tag, and not one that stands alone
# (`tokens/s`, `https://…`, `../x`, `</p>`, `a / b`); behind an option of one letter it does (`-I/usr/include`).
PATH = re.compile(
    r"(?:(?<=file://)|(?<=[\s\"']-[A-Za-z])|(?<=^-[A-Za-z])|(?<![\w.~/<\]-]))"
    r"/(?=[\w.]{2}|[\w.]/)[^\s\"'`,;:|<>()\[\]{}=*?!$&#\\]+"
)


def of_text(text: str) -> str:
    """Any text, each absolute path in it as `path-` and the start of its SHA-256: equal ones stay equal."""
    if text.startswith("/") and not re.search(r"[:;,=\n]", text):  # a path alone may have spaces
        return _named(text)
    return PATH.sub(lambda found: _named(found[0]), text)


def of_value(value: Any) -> Any:
    """A JSON value, keys included."""
    if isinstance(value, str):
        return of_text(value)
    if isinstance(value, list):
        return [of_value(item) for item in value]
    if isinstance(value, dict):
        return {of_text(str(key)): of_value(item) for key, item in value.items()}
    return value


def of_document(text: str) -> str:
    """A JSON file; one that is none, as any text."""
    return _rewritten(text, indent=2)


def of_lines(lines: Iterable[str]) -> Iterator[str]:
    """A file of JSON lines, one after the other; a torn one as any text."""
    for line in lines:
        body = line.rstrip("\n")
        yield _rewritten(body) + line[len(body) :]


def of_yaml(text: str) -> str:
    """A point's configuration; one that is none, as any text."""
    try:
        values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except yaml.YAMLError:
        return of_text(text)
    if not isinstance(values, dict):
        return of_text(text)
    hidden = of_value(values)
    # as it was written: strings that look like numbers keep their quotes
    return text if hidden == values else OmegaConf.to_yaml(OmegaConf.create(hidden))


def _rewritten(text: str, indent: int | None = None) -> str:
    """JSON text, as it was where there is nothing to hide: most records have no slash, and needn't be parsed."""
    if "/" not in text:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return of_text(text)
    hidden = of_value(value)
    return text if hidden == value else json.dumps(hidden, indent=indent)


def _named(path: str) -> str:
    whole = path.rstrip(".")
    return f"path-{hashlib.sha256(whole.encode()).hexdigest()[:8]}{path[len(whole) :]}"
