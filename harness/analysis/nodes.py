"""What nodes wrote of themselves, one file a node, streamed: at scale it does not fit in memory."""

import json
from collections.abc import Iterator
from pathlib import Path

import orjson

from harness.analysis.read import Record
from harness.records import complete


def records(attempt_dir: Path, kind: str) -> Iterator[Record]:
    """The whole records of a kind in an attempt's node files, node by node, each node's in the order of writing.

    Lines that are torn, and records that lack a field, are skipped.
    """
    mark = json.dumps(kind).encode()
    for path in sorted((attempt_dir / "nodes").glob("*/*.jsonl")):
        try:
            with open(path, "rb") as lines:
                for line in lines:
                    if mark not in line:
                        continue
                    try:
                        record = orjson.loads(line)
                    except ValueError:
                        continue
                    if isinstance(record, dict) and record.get("kind") == kind and complete(record):
                        yield record
        except OSError:
            continue
