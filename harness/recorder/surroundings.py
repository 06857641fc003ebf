"""What a point ran on, as the ranks see it: versions, devices, what NCCL said at its start."""

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
VERSION = re.compile(r"NCCL version (\S+)")
TRANSPORT = re.compile(r" via (\S+)")
NETWORK = re.compile(r"Using network (.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Cores:
    """The cores that a process may run on, and the number of compute threads that it is told to have."""

    cores: int
    mask: str
    omp_num_threads: str | None


def cores_here(environment: Mapping[str, str]) -> Cores:
    """This process's cores."""
    allowed = os.sched_getaffinity(0)
    return Cores(len(allowed), ranges(allowed), environment.get("OMP_NUM_THREADS"))


def affinity(first: int, told: Sequence[Cores]) -> list[dict[str, Any]]:
    """The cores of a host's ranks, of which `first` is the first; ranks that have the same share an entry."""
    alike: dict[Cores, list[int]] = {}
    for rank, cores in enumerate(told, first):
        alike.setdefault(cores, []).append(rank)
    return [{"ranks": ranges(ranks), **asdict(cores)} for cores, ranks in alike.items()]


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers as compact ranges: `0-15,32-47`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def versions() -> dict[str, str | None]:
    """Versions of what computes and communicates; null for what is not there."""
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if cuda else None,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        "driver": nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader", "--id=0") if cuda else None,
    }


def device_name(device: torch.device) -> str | None:
    """The device's name as its driver gives it; on a CPU the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return models[0] if models else None


def device_uuids(count: int) -> list[str]:
    """The UUIDs of this process's first GPUs, without the prefix that a driver gives them."""
    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]


def nvidia_smi(*arguments: str) -> str | None:
    """What nvidia-smi prints, or null where it can't be asked."""
    try:
        done = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ESCAPES.sub("", done.stdout).strip() or None


def nccl_start(logs: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """NCCL's version, transports and network as it logged them, beside the NCCL_* variables it was given.

    environment: without what is secret in it.
    """
    text = "".join(path.read_text(errors="replace") for path in sorted(logs.glob("nccl.*.log")))
    version, network = VERSION.search(text), NETWORK.search(text)
    return {
        "version": version.group(1) if version else None,
        "transports": sorted(set(TRANSPORT.findall(text))) or None,
        "network": network.group(1) if network else None,
        "env": {name: value for name, value in sorted(environment.items()) if name.startswith("NCCL_")},
    }
