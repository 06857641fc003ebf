"""Reads what the W&B client wrote to disk: a run directory's `run-<id>.wandb`.

The file is LevelDB's log format (blocks of 32 KiB, records cut where a block ends) after a header of 7 bytes; each
record is a protobuf.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

BLOCK = 32768
HEADER = 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def history(path: Path) -> list[dict[str, Any]]:
    """The rows of a run in order, keys as they were logged (`perf/step_s`) and W&B's own (`_step`)."""
    rows = (record.history for record in records(path) if record.HasField("history"))
    return [_values(row.item) for row in rows]


def summary(path: Path) -> dict[str, Any]:
    """The run's summary as it stands at the end."""
    found: dict[str, Any] = {}
    for record in records(path):
        if record.HasField("summary"):
            found |= _values(record.summary.update)
    return found


def config(path: Path) -> dict[str, Any]:
    """The run's configuration, nested as it was given."""
    found: dict[str, Any] = {}
    for record in records(path):
        if record.HasField("run"):
            found |= _values(record.run.config.update)
        if record.HasField("config"):
            found |= _values(record.config.update)
    return {key: value for key, value in found.items() if key != "_wandb"}


def run(path: Path) -> Any:
    """The run record: run_id, display_name, run_group, job_type, tags, project."""
    return next(record.run for record in records(path) if record.HasField("run"))


def finished(path: Path) -> bool:
    """Whether the run was closed."""
    return any(record.HasField("exit") for record in records(path))


def records(path: Path) -> Iterator[Any]:
    """Every record of a `.wandb` file, or of the only one in a folder."""
    path = Path(path)
    if path.is_dir():
        (path,) = path.glob("*.wandb")
    for data in _records(path.read_bytes()):
        record = pb.Record()
        record.ParseFromString(data)
        yield record


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B", "no W&B run file"
    position, parts = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _crc, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (FULL, LAST):
            yield parts
            parts = b""
        else:
            assert kind in (FIRST, MIDDLE), f"unknown kind of block {kind}"


def _values(items: Any) -> dict[str, Any]:
    """Keys of items, nested ones joined by a slash, with their decoded values."""
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
