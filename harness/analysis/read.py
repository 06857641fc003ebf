"""Run directories in: the files of a study as they stand, half-written ones included."""

import functools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from harness.config import Config
from harness.fields import check_limits
from harness.files import read_bytes
from harness.records import SCHEMA, attempts, by_hand
from harness.schema import complete, impossible, lacking

CLOCK_S = 1.0
"""What a clock that is set right may move stamps."""
GROUP = re.compile(r"^(?=[a-z_]+:\s)", re.MULTILINE)
"""Where a key of the outermost mapping stands, in the YAML that the harness writes."""
MOST_NAMED = 5
"""Lines that one sentence names."""
Record = dict[str, Any]
Events = dict[int, list[Record]]


@dataclass(frozen=True)
class Point:
    """What a point's run directory holds; `warnings` names what of it could not be read.

    An attempt's `progress` is the last of its events.
    """

    path: Path
    slug: str
    config: Config
    status: Record
    provenance: Record
    environment: Record
    launches: list[Record]
    events: Events
    warnings: list[str]


@dataclass(frozen=True)
class Study:
    """A study's run directories. Iterating reads one point at a time, so that a large study never lies in memory.

    `warnings` fills while iterating, with the folders that are no readable point.
    """

    path: Path
    name: str
    folders: list[Path]
    warnings: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Point]:
        self.warnings.clear()
        for folder in self.folders:
            try:
                yield read_point(folder)
            except ValueError as error:
                self.warnings.append(str(error))
            except OSError as error:
                self.warnings.append(f"point {folder.name} is left out: {error.strerror}")


def read_lines(path: Path) -> tuple[list[Record], str | None]:
    """The whole records of a JSON-lines file, and a sentence on what had to be skipped."""
    try:
        lines = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"{path.name}: cannot be read ({error.strerror})"
    records: list[Record] = []
    torn = False
    malformed: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = orjson.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
            records.append(record)
        except ValueError:
            # Only the last line has no newline after it: a write that was cut short.
            if number == len(lines):
                torn = True
            else:
                malformed.append(number)
    skipped = [f"{counted(len(malformed), 'malformed line')} ({some(malformed)})"] * bool(malformed)
    skipped += ["a torn last line"] * torn
    return records, f"{path.name}: skipped {' and '.join(skipped)}" if skipped else None


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def some(told: Iterable[object]) -> str:
    """The first of many: `2, 3, 5 …`."""
    names = [str(each) for each in told]
    return ", ".join(names[:MOST_NAMED]) + " …" * (len(names) > MOST_NAMED)


def read_point(path: Path) -> Point:
    """Read a run directory; ValueError where there is no readable config.yaml."""
    path = Path(path)
    warnings: list[str] = []
    config = read_config(path)
    status = _record(path / "status.json", warnings)
    provenance = _record(path / "provenance.json", warnings) or {}
    environment = _record(path / "env.json", warnings) or {}
    launches: list[Record] = []
    events: Events = {}
    ok = status is not None and status["status"] == "ok"
    folders = attempts(path)
    if ok and not folders:
        warnings.append("attempts is missing")
    for attempt in folders:
        launch = _record(attempt / "launch.json", warnings)
        records, skipped = read_lines(attempt / "events.jsonl")
        if launch:
            launches.append(launch)
        elif ok and not (attempt / "launch.json").exists():
            warnings.append(f"attempt {attempt.name}: launch.json is missing")
        if skipped:
            warnings.append(f"attempt {attempt.name}: {skipped}")
        events[int(attempt.name)], doubts = _sound(records, config.steps)
        if ok and launch and not (attempt / "events.jsonl").exists():
            warnings.append(f"attempt {attempt.name}: events.jsonl is missing")
        warnings.extend(f"attempt {attempt.name}: events.jsonl: {doubt}" for doubt in doubts)
        told = (record["message"] for record in events[int(attempt.name)] if record["kind"] == "warning")
        warnings.extend(f"attempt {attempt.name}: {message}" for message in told)
        progress = _record(attempt / "progress.json", warnings)
        if progress and progress.get("schema") == SCHEMA:
            if (progress["finished"] or 0) <= config.steps:
                events[int(attempt.name)].append(progress)
            else:
                warnings.append(f"attempt {attempt.name}: progress.json has an impossible finished")
    if status is None:
        unwritten = not (path / "status.json").exists()
        ended = any(record["kind"] == "end" for records in events.values() for record in records)
        status = {"status": by_hand(ended) if unwritten else "pending", "reason": None, "rank": None}
    return Point(path, path.name, config, status, provenance, environment, launches, events, warnings)


def _sound(records: Sequence[Record], steps: int) -> tuple[list[Record], list[str]]:
    """The records of this schema that can have been, and of which kinds how many others were skipped.

    No step is beyond the last of `steps`, none lasts longer than all that its attempt has stamped or has more tokens
    than its `start` tells, and none is there twice; no window with a measured step in it is empty.
    """
    ours = [record for record in records if record.get("schema") == SCHEMA]
    sound = [record for record in ours if complete(record)]
    stamps = [record["time"] for record in sound] + [record["start"] for record in sound if record["kind"] == "step"]
    longest = max(stamps, default=0.0) - min(stamps, default=0.0) + CLOCK_S
    tokens = next((record["tokens_per_step"] for record in sound if record["kind"] == "start"), None) or math.inf
    measured = min((record["step"] for record in sound if record.get("role") == "measured"), default=math.inf)
    possible, torn, wrong = [], [], []
    seen: set[int] = set()
    repeated = 0
    for record in sound:
        if record["kind"] == "step":
            step = record["step"]
            if step > steps or record["duration_s"] > longest or record["tokens"] > tokens:
                bounds = (("step", steps), ("duration_s", longest), ("tokens", tokens))
                wrong.append([name for name, most in bounds if record[name] > most])
                continue
            if step in seen:
                repeated += 1
                continue
            seen.add(step)
        elif record["kind"] == "ranks" and record["step_last"] >= measured and not record["window_s"]:
            wrong.append(["window_s"])
            continue
        possible.append(record)
    for record in ours if len(sound) < len(ours) else ():
        if missing := lacking(record):
            torn.append(missing)
        elif told := impossible(record):
            wrong.append(told)
    skipped = {
        "of another schema": len(records) - len(ours),
        f"that lack {_names(torn)}": len(torn),
        f"with an impossible {_names(wrong)}": len(wrong),
        "of a step that has one": repeated,
    }
    return possible, [f"skipped {counted(count, 'record')} {which}" for which, count in skipped.items() if count]


def _names(told: Iterable[Iterable[str]]) -> str:
    return ", ".join(sorted({name for names in told for name in names}))


def read_study(path: Path) -> Study:
    """Find a study's points; superseded ones (`<slug>~1`) are left out."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"study {path.name}: there is no folder {path}")
    warnings: list[str] = []
    document = _document(path / "study.json", warnings)
    if document is None:
        raise ValueError(f"{path} is no study: it has no readable study.json")
    if document.get("schema") != SCHEMA:
        raise ValueError(
            f"study {path.name} was written with schema {document.get('schema')}; this version reads {SCHEMA}"
        )
    folders = [folder for folder in _folders(path / "points") if "~" not in folder.name]
    return Study(path, path.name, folders)


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def _record(path: Path, warnings: list[str]) -> Record | None:
    """A document with all its fields and times that can be, or None."""
    document = _document(path, warnings)
    if document is None:
        return None
    if missing := lacking(document):
        warnings.append(f"{path.name} lacks {', '.join(missing)}")
        return None
    if wrong := impossible(document):
        warnings.append(f"{path.name} has an impossible {', '.join(wrong)}")
        return None
    return document


def _document(path: Path, warnings: list[str]) -> Record | None:
    try:
        document = orjson.loads(read_bytes(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict):
        warnings.append(f"{path.name} is not readable")
        return None
    return document


def read_config(path: Path) -> Config:
    """A run directory's resolved configuration; ValueError where there is none that can be read.

    Plain YAML: merging through OmegaConf takes 12 to 20 ms a point.
    """
    try:
        text = read_bytes(path / "config.yaml").decode()
    except FileNotFoundError:
        raise ValueError(f"point {path.name} is left out: it has no config.yaml") from None
    except OSError as error:
        raise ValueError(f"point {path.name} is left out: config.yaml: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"point {path.name} is left out: config.yaml is no text") from None
    try:
        config: Config = _build(Config, _mapping(text))
        check_limits(config)
    except yaml.YAMLError:
        raise ValueError(f"point {path.name} is left out: config.yaml is no YAML") from None
    except ValueError as error:
        raise ValueError(f"point {path.name} is left out: config.yaml {error}") from None
    return config


def _mapping(text: str) -> dict[str, Any]:
    """A YAML mapping, group by group: parsing one takes longer than reading a record of each step, and the points of a
    study have most groups in common."""
    groups = GROUP.split(text)
    if groups[0]:
        return parsed(text)
    values: dict[str, Any] = {}
    for group in groups[1:]:
        values |= parsed(group)
    return values


@functools.lru_cache(maxsize=1024)
def parsed(text: str) -> Any:
    """What YAML says; whoever is given it must not change it. Aliases are an error: a few stand for endless text."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)):
        raise yaml.YAMLError("aliases")
    return yaml.load(text, Loader=loader)  # noqa: S506


def _build(kind: Any, values: Any, name: str = "") -> Any:
    """A dataclass of the configuration; ValueError, what is wrong with it, where the values are not its fields'."""
    if not isinstance(values, dict):
        raise ValueError(f"has no keys{f' below {name}' * bool(name)}".removesuffix("."))
    types = {item.name: item.type for item in fields(kind)}
    if unknown := values.keys() - types.keys():
        raise ValueError(f"has a key that is none: {name}{sorted(map(str, unknown))[0]}")
    groups = {key: _build(types[key], values[key], f"{name}{key}.") for key in values if is_dataclass(types[key])}
    return kind(**(values | groups))
