"""What nodes wrote of themselves, one file a node, streamed: at scale it does not fit in memory."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from harness.analysis.read import Record, counted, some
from harness.files import regular
from harness.schema import complete, impossible, lacking


def records(attempt_dir: Path, kind: str, skipped: list[str]) -> Iterator[Record]:
    """The whole records of a kind in an attempt's node files, node by node, each node's in the order of writing.

    Lines that are torn are passed over. `skipped` fills with the files that cannot be read, and the records that lack
    a field or cannot be.
    """
    mark = json.dumps(kind).encode()
    for path in sorted((attempt_dir / "nodes").glob("*/*.jsonl")):
        name = path.relative_to(attempt_dir.parent.parent)
        try:
            with open(path, "rb", opener=regular) as lines:
                for number, line in enumerate(lines, start=1):
                    if mark not in line:
                        continue
                    try:
                        record = orjson.loads(line)
                    except ValueError:
                        continue
                    if not isinstance(record, dict) or record.get("kind") != kind:
                        continue
                    if complete(record):
                        yield record
                    else:
                        skipped.append(f"{name} line {number} ({some(lacking(record) or impossible(record))})")
        except OSError as error:
            skipped.append(f"{name} (cannot be read: {error.strerror})")


def passed_over(kind: str, skipped: Sequence[str]) -> list[str]:
    """A sentence on what was skipped of a kind of record, or none."""
    return [f"{kind} is skipped in {counted(len(skipped), 'place')}: {some(skipped)}"] * bool(skipped)
