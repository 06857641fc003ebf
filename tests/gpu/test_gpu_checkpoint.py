"""On a GPU: how long training stands still for a checkpoint that is written in the background."""

import json
from pathlib import Path

import pytest
import torch
from study_command import Command

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

POINT = ("model=125m", "parallel=fsdp", "seq_len=256", "local_batch=1", "steps=12", "warmup=2", "record.wandb=disabled")
ONCE = ("checkpoint=steps", "checkpoint.every=10")


def test_already_the_first_stalls_training_for_less_than_a_tenth_of_its_write(tmp_path: Path) -> None:
    command = Command(tmp_path, {})
    ended = command("run", "-m", "checkpoint.mode=sync,async", *ONCE, *POINT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = {}
    for run_dir in command.points().values():
        lines = (run_dir / "attempts" / "0" / "events.jsonl").read_text().splitlines()
        [record] = [record for record in map(json.loads, lines) if record["kind"] == "checkpoint"]
        told[record["mode"]] = record
    assert told["sync"]["bytes"] == told["async"]["bytes"] > 1e9
    assert told["async"]["stall_s"] < 0.1 * told["sync"]["write_s"], told
