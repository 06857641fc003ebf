"""On two GPUs: a hang with NCCL, a device's memory filled, each by the command line and told for what it is."""

import json
from pathlib import Path

import pytest
import torch
from study_command import Command

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

QUICK = ("gpus_per_node=2", "steps=12", "warmup=2", "seq_len=128", "record.wandb=disabled", "record.sample_every=6")
LIMIT_S = 20.0


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path, {})


def attempt(command: Command) -> Path:
    [run_dir] = command.points().values()
    return run_dir / "attempts" / "0"


@pytest.mark.parametrize(("kind", "operation"), [("ddp", "all_reduce"), ("fsdp", "all_gather")])
def test_a_hang_is_told_with_rank_group_operation_and_line_in_time(command: Command, kind: str, operation: str) -> None:
    asked = ("faults=hang", "faults.step=6", "faults.rank=1", f"watchdog.step_s={LIMIT_S}")
    ended = command("run", f"parallel={kind}", *asked, *QUICK)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    [status] = command.status().values()
    assert (status["status"], status["rank"]) == ("comm_error", 1), status
    said = status["reason"]
    assert said.startswith(f"rank 1 did not join {operation} "), said
    assert " of dp (2 ranks) within 20 s, in step 6; it stood in harness/training/faults.py:" in said
    assert said.endswith(" hang")
    began = json.loads((attempt(command) / "faults.jsonl").read_text())["time"]
    assert json.loads((attempt(command) / "launch.json").read_text())["end"] - began < 1.5 * LIMIT_S
    dumps = [json.loads((attempt(command) / "flight" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for told in dumps:
        assert (told["cause"], told["finished"]) == ("timeout", 5)
    assert not [operation for operation in dumps[1]["operations"] if operation["state"] != "completed"]


def test_a_filled_device_is_told_with_its_peak_and_its_snapshot(command: Command) -> None:
    ended = command("run", "faults=oom", "faults.step=6", *QUICK)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    [status] = command.status().values()
    assert (status["status"], status["rank"]) == ("oom", 1), status
    said = status["reason"]
    assert "Tried to allocate" in said
    held = float(said.partition("it had held up to ")[2].split(" GiB")[0])
    assert held > 0.5 * torch.cuda.get_device_properties(1).total_memory / 2**30
    assert "; what it held is in attempts/0/profile/oom.rank1.pickle; " in said
