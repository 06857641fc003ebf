"""Real mirror processes on made run directories."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import run_dirs

from harness.config import Record


def one_point(
    root: Path, mode: str = "offline", status: str = "ok", nulls: bool = False, steps: int = 11, study: str = "made"
) -> Path:
    """A study of one ddp point at two ranks with one attempt; `nulls` takes its losses and memory away."""
    config = run_dirs.make_config("ddp", 2, record=Record("default", wandb=mode), study=study)
    launch, events = run_dirs.make_attempt(config, [0.1] * steps)
    if nulls:
        events = [
            event | dict.fromkeys({"loss", "grad_norm", "peak_memory_bytes"} & set(event))
            if event["kind"] == "step"
            else event
            for event in events
        ]
    path = root / study
    return run_dirs.add_point(
        path if path.exists() else run_dirs.make_study(root, study), config, [(launch, events)], status=status
    )


def second_attempt(run_dir: Path) -> None:
    """Add an attempt that runs steps 8 to 12 again, 100 s later, and ends well."""
    launch, events = run_dirs.make_attempt(
        run_dirs.make_config("ddp", 2), [0.1] * 4, number=1, start=run_dirs.EPOCH + 100, first_step=8
    )
    folder = run_dir / "attempts" / "1"
    folder.mkdir()
    (folder / "launch.json").write_text(json.dumps(launch))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    set_status(run_dir, "ok")


def set_status(run_dir: Path, status: str) -> None:
    ended = run_dirs.record("status", run_dirs.EPOCH, None, status=status, reason=None, rank=None)
    part = run_dir / "status.part"
    part.write_text(json.dumps(ended))
    part.replace(run_dir / "status.json")


def environment(run_dir: Path, **extra: str) -> dict[str, str]:
    """This environment without any W&B account of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    home = run_dir.parents[1] / "home"
    home.mkdir(exist_ok=True)
    source = str(Path(run_dirs.__file__).resolve().parents[1])
    return kept | {"HOME": str(home), "PYTHONPATH": source} | extra


def start(run_dir: Path, **extra: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness.publish.mirror", str(run_dir)],
        env=environment(run_dir, **extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_orphan(run_dir: Path) -> int:
    """A mirror whose parent has gone; its process id."""
    code = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-m', 'harness.publish.mirror', sys.argv[1]],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run_dir)],
        env=environment(run_dir),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        pid = int(parent.stdout.readline())
        until(lambda: mirror_state(run_dir).get("records"))
    return pid


def finished(process: subprocess.Popen[str], run_dir: Path, within: float = 30, code: int = 0) -> dict[str, Any]:
    """Wait for a mirror's own end; its last state."""
    try:
        printed, _ = process.communicate(timeout=within)
    finally:
        process.kill()
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    return mirror_state(run_dir)


def mirror_state(run_dir: Path) -> dict[str, Any]:
    """mirror.json, or nothing yet."""
    try:
        state: dict[str, Any] = json.loads((run_dir / "mirror.json").read_text())
    except FileNotFoundError:
        return {}
    return state


def until(condition: Callable[[], Any], within: float = 20) -> None:
    """Wait for a condition."""
    limit = time.monotonic() + within
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)
