"""For every strategy the W&B run holds what the records of a real training say, value by value."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import run_dirs
import wandb_offline
from mirrors import finished, start
from ranks import run_ranks
from recorded_training import EVERY, STEPS, WARMUP, recorded, records

from harness.analysis.collectives import collectives
from harness.analysis.goodput import ledger
from harness.config import Parallel
from harness.publish.history import AXIS

# ranks, kind, microbatches, degrees, what else is said, and operations that take time in every step
CASES: dict[str, tuple[int, str, int, dict[str, int], dict[str, Any], set[str]]] = {
    "ddp": (2, "ddp", 1, {}, {}, {"all_reduce"}),
    "fsdp": (2, "fsdp", 1, {}, {}, {"all_gather", "reduce_scatter"}),
    "hsdp": (4, "hsdp", 1, {"replicas": 2}, {}, {"all_gather", "reduce_scatter", "all_reduce"}),
    "zero1": (2, "zero1", 1, {}, {}, {"all_reduce", "all_gather"}),
    "zero2": (2, "zero2", 1, {}, {}, {"all_gather"}),
    "zero3": (2, "zero3", 1, {}, {}, {"all_gather"}),
    "tp": (4, "fsdp", 1, {"tp": 2}, {}, {"all_gather", "reduce_scatter"}),
    "pp": (4, "ddp", 2, {"pp": 2}, {}, {"all_reduce"}),
    "cp": (4, "fsdp", 1, {"cp": 2}, {}, {"all_gather", "reduce_scatter"}),
    "ep": (4, "fsdp", 1, {"ep": 2}, {"shape": "moe"}, {"all_gather", "reduce_scatter", "all_to_all"}),
}
QUICK = ("fsdp", "pp", "ep")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_the_run_says_what_the_records_say(name, tmp_path):
    ranks, kind, microbatches, degrees, how, operations = CASES[name]
    run_ranks(ranks, recorded, kind, str(tmp_path), 0.0, 1e-3, microbatches, {**how, "degrees": degrees})
    told = records(tmp_path)
    run_dir = point_of(tmp_path, name, ranks, Parallel(name, kind, **degrees), told)
    state = finished(start(run_dir), run_dir, within=60)
    assert (state["state"], state["reason"], state["records"]) == ("done", None, len(told))

    shown = [number for number, record in enumerate(told) if record["kind"] in WANTED]
    rows = [
        {key: value for key, value in row.items() if not key.startswith("_")}
        for row in wandb_offline.history(run_dir / state["offline_dir"])
    ]
    assert len(rows) == len(shown)
    taken = 0
    for number, row in zip(shown, rows, strict=True):
        goodput = {key: row.pop(key) for key in sorted(row) if key.startswith("goodput/")}
        assert row == wanted(told[number])
        if goodput:
            assert told[number]["kind"] == "step"
            so_far = ledger([launched(told) | {"end": None}], {0: told[: number + 1]})
            fraction, rate = so_far.goodput_fraction, so_far.goodput_tokens_per_s
            assert goodput == {"goodput/fraction": fraction, "goodput/tokens_per_s": rate}
            taken += 1
    assert taken > STEPS / 2, "of a short run, goodput stands at nearly every step"

    perf = [row[AXIS] for row in rows if "perf/step_s" in row and "perf/tokens_per_s" in row]
    assert perf == list(range(1, STEPS + 1))
    sampled = [row for row in rows if any(f"comm/{op}_s" in row for op in operations)]
    assert [row[AXIS] for row in sampled] == [WARMUP + 6, WARMUP + 6 + EVERY]
    for row in sampled:
        assert operations <= {op for op in operations if row.get(f"comm/{op}_s", 0) > 0}


def launched(told: list[dict]) -> dict[str, Any]:
    """The launch record of an attempt that began a second before its first step and ended with its last record."""
    begun = next(record["start"] for record in told if record["kind"] == "step")
    launch, _ = run_dirs.make_attempt(run_dirs.make_config(), [0.1], start=begun - 1)
    return launch | {"end": told[-1]["time"]}


def point_of(root: Path, name: str, ranks: int, parallel: Parallel, told: list[dict]) -> Path:
    """A run directory of these records."""
    config = dataclasses.replace(run_dirs.make_config("ddp", ranks), parallel=parallel, steps=STEPS, warmup=WARMUP)
    return run_dirs.add_point(run_dirs.make_study(root, name), config, [(launched(told), told)])


def wanted_step(record: dict) -> dict[str, Any]:
    return {
        "perf/step_s": record["duration_s"],
        "perf/tokens_per_s": record["tokens"] / record["duration_s"],
        "memory/peak_bytes": record["peak_memory_bytes"],
        "train/loss": record["loss"],
        "train/grad_norm": record["grad_norm"],
        "train/lr": record["lr"],
    }


def wanted_collectives(record: dict) -> dict[str, Any]:
    found = {f"comm/{op}_s": value for op, value in record["seconds"].items()}
    for part in ("transfer_s", "wait_s"):
        for op in record["seconds"]:
            known = [group[op].get(part) for group in record["groups"].values() if op in group]
            known = [value for value in known if value is not None]
            found[f"comm/{op}_{part}"] = sum(known) if known else None
    found["comm/all_reduce_busbw"] = collectives({0: [record]}).all_reduce_busbw
    last = record.get("last") or {"rank": None, "share": None}
    return {**found, "comm/last_rank": last["rank"], "comm/last_share": last["share"]}


def wanted_exposure(record: dict) -> dict[str, Any]:
    comm = ("transfer_s", "wait_s", "overlapped_s", "exposed_transfer_s", "exposed_wait_s", "bubble_s")
    return {
        **{f"comm/{key}": record[key] for key in comm},
        **{f"perf/{key}": record[key] for key in ("compute_s", "idle_s")},
    }


WANTED = {"step": wanted_step, "collectives": wanted_collectives, "exposure": wanted_exposure}


def wanted(record: dict) -> dict[str, Any]:
    """The row of a record: what it knows, and nothing else."""
    values = {AXIS: record["step"], **WANTED[record["kind"]](record)}
    return {key: value for key, value in values.items() if value is not None}
