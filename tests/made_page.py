"""Pages of made rows, without run directories: a study of a thousand points in a second."""

import dataclasses
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from made_rows import made_row

from harness.analysis.breakdown import breakdowns
from harness.analysis.comparison import comparisons
from harness.analysis.efficiency import curves, fill_rows
from harness.analysis.fingerprint import RECORDED
from harness.analysis.goodput import BUCKETS
from harness.analysis.parts import PARTS
from harness.analysis.points import COLUMNS, Gathered
from harness.analysis.stragglers import FOREMOST
from harness.report.page import page
from harness.report.words import headline

STRATEGIES = ("ddp", "fsdp", "hsdp", "zero3")
DEVICE_BYTES = 143771 * 2**20


def made_points(
    scales: Sequence[int] = (8, 16, 32, 64), nccls: Sequence[str] = ("default", "ring"), repeats: int = 3
) -> list[dict[str, Any]]:
    """Points of four strategies on H200s, every number there; zero3 ends with `oom`, `failed` and `invalid` ones."""
    luck = random.Random(0)
    rows = []
    for index, strategy in enumerate(STRATEGIES):
        for way, nccl in enumerate(nccls):
            name = f"1b-{strategy}" + f"-{nccl}" * (nccl != "default")
            for scale, gpus in enumerate(scales):
                for repeat in range(repeats):
                    compute, transfer = 0.2, 0.004 * (index + 1) * scale * (1 + 0.3 * way)
                    wait, data = 0.002 * scale * luck.uniform(0.8, 1.2), 0.0005
                    parts = dict(zip(PARTS, (transfer, wait, 0.0, data, compute, 0.003), strict=True))
                    parts["compute"] *= luck.uniform(0.998, 1.002)
                    row = made_row(gpus, repeat, sum(parts.values()) * luck.uniform(1.0, 1.004), parts)
                    row |= _named(name, strategy, nccl, gpus, repeat) | _measured(row, luck)
                    if strategy == "zero3" and gpus >= scales[-2]:
                        row |= _ended(row, ("oom", "failed", "invalid")[repeat % 3])
                    rows.append(row)
    fill_rows(rows)
    return [{key: row.get(key) for key in COLUMNS} for row in rows]


def write_page(folder: Path, rows: list[dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The page of these rows in a folder, and the document that it was made from."""
    found = curves(rows)
    lost = breakdowns(rows, found)
    document = {
        "time": 1.76e9,
        "study": "made",
        "headline": headline(rows, found, lost),
        "points": rows,
        "breakdown": [dataclasses.asdict(one) for one in lost],
        "comparisons": [
            dataclasses.asdict(one)
            for one in comparisons(rows, found, {row["slug"]: dict.fromkeys(RECORDED) for row in rows})
        ],
        "waiting": made_waiting(rows),
        "warnings": [],
    }
    file = folder / "index.html"
    file.write_text(page(document, found, Gathered(None, [], {}, {}, [])), encoding="utf-8")  # type: ignore[arg-type]
    return file, document


def made_waiting(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the ranks of ok points cause: rank 5, on the first node, 12 ms of a step, the others wait for it."""
    luck, entries = random.Random(0), []
    for row in rows:
        if row["status"] != "ok":
            continue
        late = {"rank": 5, "caused_s": 0.012 * luck.uniform(0.9, 1.1), "last_share": luck.uniform(0.5, 0.9)}
        causes = [late] + [
            {"rank": rank, "caused_s": luck.gauss(-0.004, 0.003), "last_share": 0.3 / row["gpus"]}
            for rank in range(row["gpus"])
            if rank != 5
        ]
        most = sorted(causes, key=lambda cause: -cause["caused_s"])[:FOREMOST]
        foremost = [cause | {"host": f"node{cause['rank'] // 8:02}"} for cause in most]
        told = {"ranks": row["gpus"], "sampled_steps": row["sampled_steps"], "foremost": foremost}
        entries.append({"slug": row["slug"], "label": row["label"], **told})
    return entries


def _named(name: str, strategy: str, nccl: str, gpus: int, repeat: int) -> dict[str, Any]:
    label = name.replace(strategy, f"{strategy}-n{max(1, gpus // 8)}x{min(8, gpus)}")
    names = {"study": "made", "slug": f"{label}-r{repeat}-{zlib.crc32(name.encode()) % 16**6:06x}"}
    names |= {"label": label, "curve": name, "model": "1b", "parallel": strategy, "nccl": nccl, "precision": "bf16"}
    work = {"parameters": 1_235_814_400, "seq_len": 4096, "local_batch": 2, "global_batch": 2 * gpus, "steps": 60}
    work |= {"compile": True, "activation_checkpointing": "none", "data": "synthetic", "nodes": max(1, gpus // 8)}
    return names | work | {"backend": "nccl", "device_name": "NVIDIA H200", "git_sha": "0123456789abcdef"}


def _measured(row: dict[str, Any], luck: random.Random) -> dict[str, Any]:
    step = row["step_s_mean"]
    found = {f"step_s_{name}": step * (0.97 + 0.01 * index) for index, name in enumerate(("min", "p25", "p50", "p75"))}
    found |= {"step_s_p95": 1.04 * step, "step_s_p99": 1.05 * step, "step_s_max": 1.2 * step, "step_s_mad": 0.01 * step}
    found |= {"tokens_per_s_gpu": row["tokens_per_s"] / row["gpus"], "sampled_steps": 3, "mfu": 0.1 / step}
    found |= {"all_gather_s_p50": 0.03 * luck.uniform(0.9, 1.1), "reduce_scatter_s_p50": 0.02 * luck.uniform(0.9, 1.1)}
    found |= {"slowest_rank": luck.randrange(row["gpus"]), "slowest_by": luck.uniform(0, 0.03)}
    found |= {"last_rank": 5, "last_share": luck.uniform(0.2, 0.5), "exposed_wait_s_p50": row["part_wait_s"]}
    found |= {"peak_memory_bytes": int(DEVICE_BYTES * luck.uniform(0.3, 0.9)), "loss_last": 7.5}
    wall = 60 * step + 30
    ledger = dict.fromkeys(BUCKETS, 0.0) | {"step": 60 * step, "process_start": 12.0, "compile_and_first_step": 18.0}
    found |= {"wall_s": wall, "goodput_tokens_per_s": row["tokens_per_s"] / 2, "goodput_fraction": 60 * step / wall}
    return found | {f"ledger_{name}_s": seconds for name, seconds in ledger.items()}


def _ended(row: dict[str, Any], status: str) -> dict[str, Any]:
    """What is left of a point that ended in this way."""
    kept = {"slug", "label", "curve", "study", "model", "parallel", "nccl", "precision", "nodes", "gpus", "repeat"}
    kept |= {"workload", "scaling", "parameters", "seq_len", "local_batch", "global_batch", "steps", "compile", "data"}
    kept |= {"activation_checkpointing"}
    reasons = {"oom": "out of memory on rank 3", "failed": "exit code 1", "invalid": "needs 150 GiB of 140 GiB"}
    return {key: None for key in row if key not in kept} | {"status": status, "reason": reasons[status]}
