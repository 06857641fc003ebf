"""On GPUs: who is late on the device is named, kernels are the flight recorder's entries, parts tile the step."""

from functools import partial
from pathlib import Path
from statistics import median

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from recorded_training import recorded, records, samples

from harness.analysis.stragglers import arrivals
from harness.models.transformer import Block
from harness.parallel.strategy import Strategy
from harness.recorder.sample import PARTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]

DELAY_S = 0.05
"""Each step lasts longer than the watchdog takes to time its collectives, too."""

DATA_S = 0.05

SPREAD = {
    "ddp": ("ddp", {}),
    "fsdp": ("fsdp", {}),
    "tp": ("fsdp", {"degrees": {"tp": 2}}),
    "pp": ("ddp", {"degrees": {"pp": 2}}),
    "zero1": ("zero1", {}),
    "zero3": ("zero3", {}),
}


def cycles(seconds: float) -> int:
    """Clock cycles that torch.cuda._sleep takes these seconds for, on this device as it runs now."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    probe = 100_000_000
    for _ in range(2):
        begin.record()
        torch.cuda._sleep(probe)
        end.record()
        end.synchronize()
    return round(probe * seconds / (begin.elapsed_time(end) / 1e3))


def sleeps(trained: Strategy) -> None:
    """Make rank 1's device sleep in each backward pass, before its first block's."""
    if dist.get_rank() == 1:
        count = cycles(DELAY_S)
        block = next(module for module in trained.model.modules() if isinstance(module, Block))
        block.register_full_backward_pre_hook(lambda *_: torch.cuda._sleep(count))


def run(folder: Path, name: str, late: bool) -> list[dict]:
    """What both ranks wrote of every sixth step; one of them is late."""
    kind, how = SPREAD[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_NCCL_ENABLE_TIMING", "1")
        spoil = sleeps if late else None
        # a late rank sleeps in each microbatch
        microbatches = how.get("degrees", {}).get("pp", 1)
        options = {"accumulation": microbatches, "how": how, "every": 6, "spoil": spoil}
        train = partial(recorded, kind, str(folder), data_s=DATA_S, **options)
        run_ranks(2, train, backend="nccl")
    return samples(folder)


@pytest.mark.parametrize("source", ["kineto", "flight_recorder"])
@pytest.mark.parametrize("name", ["ddp", "fsdp", "tp"])
def test_a_rank_that_is_late_on_the_device_is_named_and_waited_for_as_long(tmp_path, name, source):
    told = [record for record in run(tmp_path, name, late=True) if record["source"] == source]
    steps = {(0, record["step"]): record["duration_s"] for record in records(tmp_path, "step")}
    found = arrivals(told, steps).straggler
    assert found is not None
    assert found.rank == 1
    assert found.caused_s == pytest.approx(DELAY_S, rel=0.1)
    assert median(r["wait_s"] for r in told if r["rank"] == 0) == pytest.approx(DELAY_S, rel=0.1)


@pytest.mark.parametrize("name", SPREAD)
def test_every_kernel_is_an_entry_and_parts_tile_each_ranks_step(tmp_path, name):
    told = [record for record in run(tmp_path, name, late=False) if record["source"] == "kineto"]
    assert len(told) == 2 * len({record["step"] for record in told}) > 0
    for record in told:
        assert not record["partial"], record
        assert sum(record[part] or 0.0 for part in PARTS) == pytest.approx(record["step_s"])
        assert record["compute_s"] > 0
        assert (record["bubble_s"] is not None) == (name == "pp")
    steps = {(0, record["step"]): record["duration_s"] for record in records(tmp_path, "step")}
    assert arrivals(samples(tmp_path), steps).straggler is None


def test_exposure_is_recorded_of_the_sampled_step_and_collectives_of_the_one_before(tmp_path):
    run(tmp_path, "ddp", late=False)
    sampled = [record["step"] for record in records(tmp_path, "step") if record["role"] == "sampled"]
    assert [(record["step"], record["source"]) for record in records(tmp_path, "exposure")] == [
        (step, "kineto") for step in sampled
    ]
    assert [(record["step"], record["source"]) for record in records(tmp_path, "collectives")] == [
        (step - 5, "flight_recorder") for step in sampled
    ]
