"""Launches that are compared on GPUs: the same steps by CUDA events, measuring's variables on one side only."""

import json

import pytest
import torch

from harness.bench import launches, recorder
from harness.study.progress import Progress
from launch.devices import machine

pytestmark = pytest.mark.gpu
SHORT = ("model=tiny", "parallel=fsdp", "precision=bf16", "seq_len=512", "local_batch=4", "steps=65")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_only_one_side_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "FOLDER", tmp_path)
    told, seconds = {}, {}
    for side in ("off", "on"):
        (planned, *_) = recorder.launches([*SHORT, "gpus_per_node=2"], side, 5, machine())
        told[side] = recorder.launched(side, planned, machine(), Progress())
        seconds[side] = json.loads((planned.point.run_dir / "stamps.json").read_text())["seconds"]
        assert len(seconds[side]) == 65
        assert min(seconds[side]) > 0
    assert not set(told["off"]["variables"]) & set(launches.MEASURING)
    assert {"TORCH_NCCL_ENABLE_TIMING", "TORCH_FR_BUFFER_SIZE", "NCCL_DEBUG"} <= set(told["on"]["variables"])
