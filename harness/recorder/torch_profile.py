"""PyTorch's own profiler: a trace of a rank's operators and kernels that Perfetto opens."""

import gzip
import json
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

KEPT = frozenset({"correlation", "stream", "device", "grid", "block", "bytes"})
"""What is kept of an event's arguments: what ties a kernel to its launch and says how large it is."""

DROPPED = frozenset({"fwdbwd", "python_function", "overhead"})
"""Kinds of events that take much room: the first are arrows from each operator to its backward."""

HEAD = ("schemaVersion", "displayTimeUnit", "baseTimeNanoseconds", "deviceProperties", "distributedInfo")


class TorchTrace:
    """Records until `stop`, which writes the trace to `path`."""

    def __init__(self, path: Path, cuda: bool) -> None:
        self.path, self.cuda = path, cuda

    def start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self.cuda:
            activities.append(ProfilerActivity.CUDA)
            # kernels of the steps before are no part of it
            torch.cuda.synchronize()
        self.profiler = profile(activities=activities)
        self.profiler.start()

    def stop(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        self.profiler.stop()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_name(self.path.name.removesuffix(".gz") + ".whole")
        try:
            self.profiler.export_chrome_trace(str(whole))
            with whole.open() as file:
                trace = trimmed(json.load(file))
        finally:
            whole.unlink(missing_ok=True)
        del self.profiler
        with gzip.open(self.path, "wt", compresslevel=5) as file:
            json.dump(trace, file, separators=(",", ":"))


def trimmed(trace: dict[str, Any]) -> dict[str, Any]:
    """A Chrome trace without what a timeline does not show."""
    events = []
    for event in trace["traceEvents"]:
        if event.get("cat") in DROPPED:
            continue
        # names of processes and threads are arguments too
        if event["ph"] == "X" and "args" in event:
            event["args"] = {name: value for name, value in event["args"].items() if name in KEPT}
        events.append(event)
    return {**{name: trace[name] for name in HEAD if name in trace}, "traceEvents": events}
