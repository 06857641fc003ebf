"""Where a point was started from: code, versions, machine and command line."""

import importlib.metadata
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.files import read_json
from launch.devices import Machine
from launch.environment import SOURCE, masked, without_credentials

CODE = ("harness", "launch", "conf", "slurm", "pyproject.toml")
PACKAGES = ("scaling-harness", "torch", "torchao", "deepspeed", "hydra-core", "wandb", "numpy")


def provenance(machine: Machine) -> dict[str, Any]:
    """All of it but the start time, which is each point's own."""
    return {
        "schema": 1,
        "kind": "provenance",
        "git": git(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": {
            "hostname": socket.gethostname(),
            "platform": platform.platform(),
            "cpu": cpu(),
            "cores": machine.cores,
            "memory_bytes": machine.memory_bytes,
            "gpus": [gpu.name for gpu in machine.gpus],
            "driver": machine.driver,
        },
        "command": masked(sys.argv),
    }


def stamped(document: dict[str, Any]) -> dict[str, Any]:
    """The provenance of a point that starts now."""
    return {**document, "time": time.time()}


def since(run_dir: Path, provenance_now: dict[str, Any], environment_now: dict[str, Any]) -> list[str]:
    """What of code, versions, hardware and NCCL's environment is not as it was when a point was first started."""
    try:
        before, environment = read_json(run_dir / "provenance.json"), read_json(run_dir / "env.json")
    except ValueError as error:
        return [str(error)]
    return [*changes(before or {}, provenance_now), *environment_changes(environment or {}, environment_now)]


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of code, versions and hardware is not as it was; where a file was copied to does not matter."""
    keys = [
        *(("git", key) for key in ("sha", "dirty")),
        *(("versions", key) for key in now["versions"]),
        *(("machine", key) for key in ("cpu", "gpus", "driver")),
    ]
    pairs = [(key, before.get(part, {}).get(key), now[part][key]) for part, key in keys]
    return [f"{key} {brief(was)}, now {brief(value)}" for key, was, value in pairs if was != value]


def environment_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of NCCL's variables and hidden files is not as it was, by two documents of env.json.

    Where the harness lets NCCL write its log is its own matter and as good as the run directory.
    """
    was, value = ({**found.get("effective", {}), **hidden(found)} for found in (before, now))
    keys = sorted({*was, *value} - {"NCCL_DEBUG_FILE"})
    pairs = [(key, was.get(key, "not set"), value.get(key, "not set")) for key in keys]
    return [f"{key} {brief(one)}, now {brief(other)}" for key, one, other in pairs if one != other]


def hidden(environment: dict[str, Any]) -> dict[str, str]:
    """The hash of each hidden file by its path, for files that exist."""
    files = environment.get("files", [])
    return {file["path"]: file["sha256"] or "unreadable" for file in files if file["exists"]}


def brief(value: Any) -> str:
    """A value in a few characters; commits and hashes as git shortens them."""
    return str(value)[:7] if isinstance(value, str) and len(value) in (40, 64) else str(value)


def git() -> dict[str, Any]:
    """Commit, uncommitted changes to the code, and remote; nulls where the source tree is no repository."""
    changes = asked("status", "--porcelain", "--", *CODE)
    remote = asked("remote", "get-url", "origin")
    return {
        "sha": asked("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "remote": without_credentials(remote) if remote else None,
    }


def asked(*question: str) -> str | None:
    """git's answer about the source tree, or None where it has none."""
    try:
        answer = subprocess.run(["git", "-C", str(SOURCE), *question], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu() -> str | None:
    """The processor's model, as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
