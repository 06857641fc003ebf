"""mirror.json: what the mirror of a point is doing, or a study's report run, for those who read the folder."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.files import read_bytes, write_text


@dataclass
class State:
    """The state of a mirror; `mode` is what was asked for, `mode_used` what it came to.

    `sent`, of a study's report run alone, is the SHA-256 of the report that was sent last.
    """

    run_id: str
    mode: str
    mode_used: str | None = None
    state: str = "running"
    reason: str | None = None
    records: int = 0
    offline_dir: str | None = None
    host: str = ""
    pid: int = 0
    sent: str | None = None


def read(run_dir: Path) -> State | None:
    """The state that a run directory holds, or None where no mirror was there or its file is damaged."""
    try:
        document = json.loads(read_bytes(run_dir / "mirror.json"))
        # older ones have no `sent`
        return State(**{key: document[key] for key in State.__dataclass_fields__ if key in document or key != "sent"})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write(run_dir: Path, state: State) -> None:
    """Replace mirror.json; two threads may, the mirror's own and, at the last, its deadline's."""
    document = {"schema": 1, "kind": "mirror", "time": time.time(), **asdict(state)}
    write_text(run_dir / "mirror.json", json.dumps(document, indent=1) + "\n")


def here() -> tuple[str, int]:
    """This process: a mirror notices by it when another has taken its place."""
    return platform.node(), os.getpid()


def holder(run_dir: Path) -> tuple[str, int] | None:
    """Which process wrote mirror.json last; None where the run directory has been moved away."""
    found = read(run_dir)
    return (found.host, found.pid) if found else None
