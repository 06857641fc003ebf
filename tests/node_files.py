"""Writes node files whose truth is known: constructed telemetry for tests, not measurements."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from run_dirs import EPOCH, record

from harness.recorder.nodes import node_file


def make_gpu(index: int, energy_j: float | None, **changes: Any) -> dict[str, Any]:
    """What a GPU tells in one poll."""
    values = {
        "rank": index,
        "uuid": f"uuid{index}",
        "index": index,
        "energy_j": energy_j,
        "power_w": 600.0,
        "power_limit_w": 700.0,
        "clock_sm_mhz": 1500,
        "clock_memory_mhz": 3201,
        "throttling": [],
        "temperature_c": 60,
        "memory_bytes": 2**30,
        "busy": 1.0,
        "pcie_tx_bytes_per_s": None,
        "pcie_rx_bytes_per_s": None,
        "nvlink_tx_bytes": None,
        "nvlink_rx_bytes": None,
        "errors": {"nvlink_crc": 0, "ecc_uncorrected": None},
    }
    return values | changes


def make_port(**errors: int | None) -> dict[str, Any]:
    return {
        "device": "mlx5_0",
        "port": 1,
        "state": "ACTIVE",
        "rate_bytes_per_s": 5e10,
        "tx_bytes": 1,
        "rx_bytes": 1,
        "errors": errors,
        "congestion": {},
    }


def make_poll(time: float, gpus: list[dict[str, Any]], host: str = "host0", **changes: Any) -> dict[str, Any]:
    """A node's telemetry record."""
    cpu = {"busy": 0.5, "load": 1.0, "memory_bytes": 2**30, "clock_mhz": None}
    values = {"host": host, "node": 0, "gpus": gpus, "ports": [], "interfaces": [], "cpu": cpu}
    return record("telemetry", time, **(values | {"warning": None, "duration_s": 0.001} | changes))


def add_samples(point: Path, waits: Mapping[int, Mapping[int, float]], steps: Iterable[int]) -> None:
    """Write what all ranks tell of these steps into a point's first attempt: for whom each waits, in seconds."""
    known = {"source": "profiler", "partial": False, "transfer_s": 0.001, "operations": 10, "step_s": 0.1}
    parts = ("compute_s", "overlapped_s", "exposed_transfer_s", "exposed_wait_s", "bubble_s", "idle_s")
    with open(node_file(point / "attempts" / "0", 0, "host0"), "a") as file:
        for step in steps:
            for rank, waited in waits.items():
                told = [{"rank": late, "wait_s": seconds} for late, seconds in waited.items()]
                own = {"step": step, "rank": rank, "wait_s": sum(waited.values()), "waited_for": told}
                own |= {"last": 0 if waited else 10}
                file.write(json.dumps(record("sample", EPOCH, **known, **own, **dict.fromkeys(parts))) + "\n")


def add_polls(point: Path, polls: list[dict[str, Any]], attempt: int = 0, tail: str = "") -> None:
    """Write telemetry into a point's attempt, in the files of its nodes; `tail` is what a kill left of a record."""
    for poll in polls:
        with open(node_file(point / "attempts" / str(attempt), poll["node"], poll["host"]), "a") as file:
            file.write(json.dumps(poll | {"attempt": attempt}) + "\n")
    if tail:
        with open(node_file(point / "attempts" / str(attempt), 0, "host0"), "a") as file:
            file.write(tail)
