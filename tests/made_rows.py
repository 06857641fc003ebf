"""Rows of points.csv with a known truth, made without run directories: thousands in a second."""

from typing import Any

from harness.analysis.points import COLUMNS

TOKENS = 1024


def made_row(gpus: int, repeat: int, step_s: float, parts: dict[str, float] | None = None, **more: Any) -> dict:
    """An `ok` point of the curve `tiny-ddp` whose steps took `step_s` and were made of `parts`; weak scaling."""
    rate = TOKENS * gpus / step_s
    row = dict.fromkeys(COLUMNS) | {
        "slug": f"tiny-ddp-n1x{gpus}-r{repeat}",
        "status": "ok",
        "label": f"tiny-ddp-n1x{gpus}",
        "curve": "tiny-ddp",
        "workload": "training",
        "model": "tiny",
        "parallel": "ddp",
        "nccl": "default",
        "scaling": "weak",
        "nodes": 1,
        "gpus": gpus,
        "repeat": repeat,
        "tokens_per_step": TOKENS * gpus,
        "tokens_per_s": rate,
        "tokens_per_s_lo": rate * 0.99,
        "tokens_per_s_hi": rate / 0.99,
        "interval": "within-run",
        "window_steps": 40,
        "step_s_mean": step_s,
        "warnings": None,
    }
    return row | {f"part_{name}_s": seconds for name, seconds in (parts or {}).items()} | more
