"""What Linux tells of a node's processors and memory."""

import os
from pathlib import Path
from typing import Any

import psutil

CORES = Path("/sys/devices/system/cpu")
MOST_CORES = 8
"""Cores whose clocks are read: on some machines the kernel must ask each core for its own."""


class Processor:
    """The node's processors: shares are of the time since the last reading."""

    def __init__(self, root: Path = CORES) -> None:
        self.clocks = [root / f"cpu{core}/cpufreq/scaling_cur_freq" for core in sorted(os.sched_getaffinity(0))]
        self.clocks = [path for path in self.clocks if path.exists()][:MOST_CORES]
        self.polled = False

    def read(self) -> dict[str, Any]:
        """`busy` of all cores, runnable processes over a minute, memory in use, mean clock of some of its cores."""
        busy, polled, self.polled = psutil.cpu_percent() / 100, self.polled, True
        memory = psutil.virtual_memory()
        clocks = [int(path.read_text()) / 1e3 for path in self.clocks]
        return {
            "busy": busy if polled else None,
            "load": os.getloadavg()[0],
            "memory_bytes": memory.total - memory.available,
            "clock_mhz": sum(clocks) / len(clocks) if clocks else None,
        }
