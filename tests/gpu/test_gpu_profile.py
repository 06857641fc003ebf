"""On a GPU: profilers that see kernels, and a snapshot of memory that ran out; each by the command line."""

import csv
import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from study_command import Command

from harness.recorder.out_of_memory import snapshot_when_full

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

QUICK = ("gpus_per_node=1", "warmup=2", "seq_len=128", "record.wandb=disabled", "precision=bf16")
TOOLKIT = "/usr/local/cuda/bin"


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The command, with the CUDA toolkit's tools on the PATH."""
    return Command(tmp_path, {"PATH": f"{os.environ['PATH']}{os.pathsep}{TOOLKIT}"})


def attempt(command: Command) -> Path:
    [run_dir] = command.points().values()
    return run_dir / "attempts" / "0"


def needs(tool: str) -> pytest.MarkDecorator:
    there = shutil.which(tool) or shutil.which(tool, path=TOOLKIT)
    return pytest.mark.skipif(there is None, reason=f"there is no {tool} on this machine")


def roles(folder: Path) -> dict[int, str]:
    records = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return {record["step"]: record["role"] for record in records if record["kind"] == "step"}


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_torch_trace_holds_the_steps_kernels(command: Command, ranks: int) -> None:
    if torch.cuda.device_count() < ranks:
        pytest.skip("needs two GPUs")
    scale = (f"gpus_per_node={ranks}", "parallel=fsdp", "steps=16")
    ended = command("run", *QUICK, *scale, "profile=torch", "profile.first_step=5", "profile.ranks=0")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [step for step, role in roles(attempt(command)).items() if role == "profiled"] == [5, 6]
    [path] = (attempt(command) / "profile").iterdir()
    with gzip.open(path, "rt") as file:
        events = json.load(file)["traceEvents"]
    kernels = [event for event in events if event.get("cat") == "kernel"]
    steps = {e["name"]: e for e in events if e.get("cat") == "user_annotation" and e["name"].startswith("step ")}
    assert sorted(steps) == ["step 5", "step 6"]
    # the device was idle when it began
    first, last = steps["step 5"], steps["step 6"]
    assert all(kernel["ts"] >= first["ts"] for kernel in kernels)
    within = [kernel for kernel in kernels if kernel["ts"] <= last["ts"] + last["dur"]]
    assert len(within) > 100
    assert any("gemm" in kernel["name"] or "nvjet" in kernel["name"] for kernel in kernels)
    assert any(kernel["name"].startswith("nccl") for kernel in kernels) == (ranks > 1)
    launches = {e["args"]["correlation"] for e in events if e.get("cat") == "cuda_runtime" and "args" in e}
    assert {kernel["args"]["correlation"] for kernel in within} & launches, "a kernel is tied to its launch"


@needs("ncu")
def test_a_report_of_nsight_compute_tells_of_matrix_products_in_the_profiled_step(command: Command) -> None:
    ended = command("run", *QUICK, "steps=12", "profile=ncu", "profile.first_step=5", "profile.launches=3", seconds=280)
    log = "".join(path.read_text() for path in attempt(command).rglob("*.log"))
    if "ERR_NVGPUCTRPERM" in log:
        pytest.skip("this machine lets nobody read the GPU's counters")
    assert ended.returncode == 0, ended.stdout + ended.stderr + log[-2000:]
    assert [step for step, role in roles(attempt(command)).items() if role == "profiled"] == [5]
    [report] = (attempt(command) / "profile").iterdir()
    assert report.name == "rank0.ncu-rep"
    words = ["ncu", "--import", str(report), "--page", "raw", "--csv"]
    shown = subprocess.run(words, env={**os.environ, **command.environment}, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    names = [row["Kernel Name"] for row in csv.DictReader(io.StringIO(shown.stdout)) if row["ID"]]
    assert len(names) == 3
    assert not any("nccl" in name.lower() for name in names)


@needs("nsys")
def test_nsight_systems_leaves_a_report_of_the_profiled_steps(command: Command) -> None:
    ended = command("run", *QUICK, "steps=12", "profile=nsys", "profile.first_step=5", seconds=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = attempt(command) / "profile" / "rank0.nsys-rep"
    words = ["nsys", "stats", "--report=nvtx_sum", "--format=csv", str(report)]
    shown = subprocess.run(
        words, env={**os.environ, **command.environment}, capture_output=True, text=True, timeout=100
    )
    assert all(name in shown.stdout for name in ("step 5", "step 6", "forward", "backward", "optimizer"))
    assert "step 7" not in shown.stdout


def fills(path: str) -> str:
    """What a rank says whose GPU cannot hold what it asks for, beside a MiB that it holds."""
    snapshot_when_full(Path(path))
    held = torch.zeros(2**20, dtype=torch.uint8, device="cuda")
    before = Path(path).exists()
    try:
        torch.empty(2**45, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError as error:
        return f"{before} {held.sum().item()} {error}"
    return "there was room"


def test_running_out_of_memory_leaves_a_snapshot_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "attempts" / "0" / "profile" / "oom.rank0.pickle"
    [said] = run_ranks(1, fills, str(path), backend="nccl")
    assert said.startswith("False 0 CUDA out of memory"), "the error is the allocator's own"
    snapshot = pickle.loads(path.read_bytes())
    assert {"segments", "device_traces"} <= set(snapshot)
    blocks = [block for segment in snapshot["segments"] for block in segment["blocks"]]
    assert 2**20 in [block["size"] for block in blocks if block["state"] == "active_allocated"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
