"""The table of a study's points, as in points.csv, and the curves of its benchmarks of collectives."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from harness.analysis.accounts import Account, accounts
from harness.analysis.attainable import COMPARED, Bandwidth, InStep, Setting, columns, placed
from harness.analysis.comparability import Difference, check_join, check_joined
from harness.analysis.efficiency import fill_rows, name_rows
from harness.analysis.fingerprint import Fingerprint, asked
from harness.analysis.goodput import BUCKETS
from harness.analysis.parts import PARTS
from harness.analysis.read import Study
from harness.analysis.stragglers import Waiting
from harness.config import OPERATIONS
from harness.records import OPEN

FINGERPRINT = ("power_cap", "data_sha256", "gpu_links", "nccl_network", "nccl_transports")
"""What of a point's fingerprint has no column elsewhere."""

# The first 30 columns are a contract, in name and order; what comes after them may grow.
COLUMNS: dict[str, type[pl.DataType]] = {
    "study": pl.String,
    "slug": pl.String,
    "status": pl.String,
    "model": pl.String,
    "parallel": pl.String,
    "nccl": pl.String,
    "nodes": pl.Int64,
    "gpus": pl.Int64,
    "backend": pl.String,
    "precision": pl.String,
    "repeat": pl.Int64,
    "tokens_per_s": pl.Float64,
    "tokens_per_s_lo": pl.Float64,
    "tokens_per_s_hi": pl.Float64,
    "tokens_per_s_gpu": pl.Float64,
    "step_s_p50": pl.Float64,
    "step_s_p95": pl.Float64,
    "mfu": pl.Float64,
    "attained": pl.Float64,
    "all_reduce_s_p50": pl.Float64,
    "all_reduce_busbw": pl.Float64,
    "all_gather_s_p50": pl.Float64,
    "reduce_scatter_s_p50": pl.Float64,
    "exposed_comm_s": pl.Float64,
    "goodput_tokens_per_s": pl.Float64,
    "goodput_fraction": pl.Float64,
    "efficiency": pl.Float64,
    "baseline": pl.String,
    "peak_memory_bytes": pl.Int64,
    "loss_last": pl.Float64,
    "mfu_causal": pl.Float64,
    "flops_convention": pl.String,
    "label": pl.String,
    "curve": pl.String,
    "reason": pl.String,
    "warnings": pl.String,
    "scaling": pl.String,
    "parameters": pl.Int64,
    "data": pl.String,
    "seq_len": pl.Int64,
    "local_batch": pl.Int64,
    "global_batch": pl.Int64,
    "steps": pl.Int64,
    "compile": pl.Boolean,
    "activation_checkpointing": pl.String,
    "tokens_per_step": pl.Int64,
    "tokens_per_gpu_step": pl.Float64,
    "device_name": pl.String,
    "hosts": pl.Int64,
    "oversubscribed": pl.Boolean,
    "position": pl.Int64,
    "attempts": pl.Int64,
    "window_steps": pl.Int64,
    "sampled_steps": pl.Int64,
    "profiled_steps": pl.Int64,
    "interval": pl.String,
    "step_s_mean": pl.Float64,
    "step_s_min": pl.Float64,
    "step_s_p25": pl.Float64,
    "step_s_p75": pl.Float64,
    "step_s_max": pl.Float64,
    "step_s_mad": pl.Float64,
    "data_share": pl.Float64,
    "all_to_all_s_p50": pl.Float64,
    "send_recv_s_p50": pl.Float64,
    "broadcast_s_p50": pl.Float64,
    "reduce_s_p50": pl.Float64,
    "transfer_s_p50": pl.Float64,
    "wait_s_p50": pl.Float64,
    "exposed_transfer_s_p50": pl.Float64,
    "exposed_wait_s_p50": pl.Float64,
    "bubble_s_p50": pl.Float64,
    "step_s_p99": pl.Float64,
    "slowest_rank": pl.Int64,
    "slowest_by": pl.Float64,
    "last_rank": pl.Int64,
    "last_share": pl.Float64,
    "efficiency_lo": pl.Float64,
    "efficiency_hi": pl.Float64,
    "goodput_efficiency": pl.Float64,
    "goodput_peak": pl.String,
    "git_sha": pl.String,
    "git_dirty": pl.Boolean,
    "torch": pl.String,
    "cuda": pl.String,
    "nccl_version": pl.String,
    "driver": pl.String,
    "processor": pl.String,
    "cores": pl.Int64,
    "threads": pl.Int64,
    "nccl_ambient": pl.String,
    "nccl_files": pl.String,
    "power_w_gpu": pl.Float64,
    "energy_per_token_j": pl.Float64,
    "clock_sm_mhz_p50": pl.Float64,
    "throttled": pl.String,
    "wall_s": pl.Float64,
    "queue_s": pl.Float64,
    "lost_steps": pl.Int64,
    **{f"ledger_{name}_s": pl.Float64 for name in BUCKETS},
    "workload": pl.String,
    "op": pl.String,
    **{f"{name}_peak_busbw": pl.Float64 for name in OPERATIONS},
    **{f"{name}_{what}": pl.Float64 for name in COMPARED for what in ("attainable", "of_attainable")},
    "straggler_rank": pl.Int64,
    "straggler_host": pl.String,
    "sampled_step_s": pl.Float64,
    **{f"part_{name}_s": pl.Float64 for name in PARTS},
    "joined_over": pl.String,
    "faults": pl.String,
    **dict.fromkeys(FINGERPRINT, pl.String),
}


@dataclass(frozen=True)
class Gathered:
    """A study's points in numbers: their rows, the benchmarks' curves, and by slug what lies on them.

    `prints` are the points' fingerprints by slug, `differences` what is not alike in them beyond what was asked for,
    `waiting` what ranks cause, by slug, where they told.
    """

    frame: pl.DataFrame
    bandwidths: list[Bandwidth]
    in_steps: dict[str, list[InStep]]
    prints: dict[str, Fingerprint]
    differences: list[Difference]
    waiting: dict[str, Waiting] = field(default_factory=dict)


def points(study: Study) -> pl.DataFrame:
    """One row a point, curve by curve and smallest first. What is not known is null."""
    return gather(study).frame


def gather(study: Study, processes: int = 1, join: Sequence[str] = ()) -> Gathered:
    """Read every point of a study; its warnings name those that are left out, curves are joined over `join`'s fields.

    ValueError for a field that keeps no points apart.
    """
    check_join(join)
    told = list(accounts(study.folders, processes))
    study.warnings[:] = [each for each in told if isinstance(each, str)]
    return joined(study.name, [each for each in told if isinstance(each, Account)], join)


def joined(study: str, told_of: Iterable[Account], join: Sequence[str] = ()) -> Gathered:
    """What points tell only beside each other: names, curves, efficiency, and what their collectives could attain."""
    rows, configs = [], []
    prints: dict[str, Fingerprint] = {}
    curves: list[Bandwidth] = []
    told: dict[str, tuple[Setting, list[InStep]]] = {}
    waiting: dict[str, Waiting] = {}
    for account in told_of:
        slug, config = account.row["slug"], account.config
        rows.append({"study": study, **account.row, **{name: account.recorded[name] for name in FINGERPRINT}})
        configs.append(config)
        prints[slug] = {**asked(config), **account.recorded}
        if account.waiting:
            waiting[slug] = account.waiting
        if account.bandwidth:
            curves.append(account.bandwidth)
        elif account.setting:
            told[slug] = account.setting, account.in_step
    ok = {row["slug"] for row in rows if row["status"] == "ok"}
    fitting = [curve for curve in curves if curve.slug in ok]
    in_steps = {slug: placed(operations, at, fitting) for slug, (at, operations) in told.items()}
    for row in rows:
        row |= columns(in_steps.get(row["slug"], []))
    began = sorted((row for row in rows if row["began"] is not None), key=lambda row: row["began"])
    for position, row in enumerate(began):
        row["position"] = position
    differences = name_rows(rows, configs, list(prints.values()), join)
    if all(row["status"] not in OPEN for row in rows):  # while a study runs, its points may yet differ in that
        check_joined(study, join, differences)
    fill_rows(rows)
    frame = pl.DataFrame([[row.get(name) for name in COLUMNS] for row in rows], schema=COLUMNS, orient="row")
    frame = frame.sort("model", "parallel", "nccl", "gpus", "nodes", "label", "repeat", nulls_last=True)
    return Gathered(frame, curves, in_steps, prints, differences, waiting)
