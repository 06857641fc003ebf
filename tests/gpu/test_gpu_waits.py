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

COMPUTE_S = 0.06
"""Of every rank's device in a step: long enough that a step is launched while it lasts. In cycles, so that devices
whose clocks differ by 10 % are 6 ms apart."""

DELAY_S = 0.2

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


def sleeps(trained: Strategy, late: bool) -> None:
    """Keep every device busy for COMPUTE_S before its first block, and rank 1's for longer in backward."""
    block = next(module for module in trained.model.modules() if isinstance(module, Block))
    busy = cycles(COMPUTE_S)
    block.register_forward_pre_hook(lambda *_: torch.cuda._sleep(busy))
    if late and dist.get_rank() == 1:
        longer = cycles(DELAY_S)
        block.register_full_backward_pre_hook(lambda *_: torch.cuda._sleep(longer))


def run(folder: Path, name: str, late: bool) -> Path:
    """The folder in which both ranks have told of every sixth step; one of them is late."""
    kind, how = SPREAD[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_NCCL_ENABLE_TIMING", "1")
        microbatches = how.get("degrees", {}).get("pp", 1)
        options = {"accumulation": microbatches, "how": how, "every": 6, "spoil": partial(sleeps, late=late)}
        run_ranks(2, partial(recorded, kind, str(folder), **options), backend="nccl")
    return folder


@pytest.fixture(scope="module", params=["ddp", "fsdp", "tp"])
def late(request, tmp_path_factory):
    return run(tmp_path_factory.mktemp(request.param), request.param, late=True)


@pytest.fixture(scope="module", params=SPREAD)
def even(request, tmp_path_factory):
    return request.param, run(tmp_path_factory.mktemp(request.param), request.param, late=False)


def test_a_rank_that_is_late_on_the_device_is_named_and_waited_for_as_long(late):
    told = samples(late)
    steps = {(0, record["step"]): record["duration_s"] for record in records(late, "step")}
    found = arrivals(told, steps).straggler
    assert found is not None
    assert found.rank == 1
    assert found.caused_s == pytest.approx(DELAY_S, rel=0.1)
    assert median(r["wait_s"] for r in told if r["rank"] == 0) == pytest.approx(DELAY_S, rel=0.1)


def test_the_flight_recorder_tells_the_same_of_an_ordinary_step(tmp_path):
    """Of two ranks one waits, and the median is half of that."""
    told = records(run(tmp_path, "ddp", late=True), "collectives")
    waits = [record["groups"]["dp"]["all_reduce"]["wait_s"] for record in told]
    assert median(waits) == pytest.approx(DELAY_S / 2, rel=0.1)


def test_every_kernel_is_an_entry_and_parts_tile_each_ranks_step(even):
    name, folder = even
    told = samples(folder)
    assert {record["source"] for record in told} == {"kineto"}
    assert len(told) == 2 * len({record["step"] for record in told}) > 0
    for record in told:
        assert not record["partial"], record
        assert sum(record[part] or 0.0 for part in PARTS) == pytest.approx(record["step_s"])
        assert record["compute_s"] > 0
        assert (record["bubble_s"] is not None) == (name == "pp")


def test_nobody_is_named_where_all_are_alike(even):
    _, folder = even
    steps = {(0, record["step"]): record["duration_s"] for record in records(folder, "step")}
    assert arrivals(samples(folder), steps).straggler is None


def test_exposure_is_recorded_of_the_sampled_step_and_collectives_of_the_one_before(even):
    _, folder = even
    sampled = [record["step"] for record in records(folder, "step") if record["role"] == "sampled"]
    assert [(record["step"], record["source"]) for record in records(folder, "exposure")] == [
        (step, "kineto") for step in sampled
    ]
    assert [(record["step"], record["source"]) for record in records(folder, "collectives")] == [
        (step - 5, "flight_recorder") for step in sampled
    ]
