"""On a GPU: steps that never hold the host up, and device times that agree with the clock on the wall."""

from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import pytest
import tiny_training as tiny
import torch
from ranks import run_ranks
from recorded_training import STEPS, recorded, records

from harness.models.attention import attention_kernels
from harness.recorder.exchange import Exchange

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# not ZeRO: DeepSpeed itself waits in every step, for its gradient norm and for the device after backward
SPREAD = {
    "ddp": ("ddp", {}),
    "fsdp": ("fsdp", {}),
    "tp": ("fsdp", {"degrees": {"tp": 2}}),
    "pp": ("ddp", {"degrees": {"pp": 2}}),
    "cp": ("fsdp", {"degrees": {"cp": 2}}),
    "ulysses": ("fsdp", {"degrees": {"cp": 2}, "context": "ulysses"}),
    "moe": ("fsdp", {"shape": "moe"}),
    "mla": ("fsdp", {"shape": "mla"}),
}


@contextmanager
def no_waiting():
    """What makes the host wait raises: torch's mode alone would let pass what waits for a device or an event."""

    def refuse(*_, **__):
        raise RuntimeError("the host waits")

    with ExitStack() as patches:
        for owner in (torch.cuda, torch.cuda.Stream, torch.cuda.Event, torch.accelerator):
            patches.enter_context(mock.patch.object(owner, "synchronize", refuse))
        torch.cuda.set_sync_debug_mode("error")
        patches.callback(torch.cuda.set_sync_debug_mode, "default")
        yield


def every_wait_raises() -> None:
    waits = (
        lambda: torch.ones((), device="cuda").item(),
        lambda: torch.cuda.synchronize(),
        lambda: torch.cuda.current_stream().synchronize(),
        lambda: torch.cuda.Event().synchronize(),
    )
    for wait in waits:
        with no_waiting(), pytest.raises(RuntimeError, match=r"the host waits|synchronizing CUDA operation"):
            wait()


def test_a_host_that_waits_is_noticed():
    run_ranks(1, every_wait_raises, backend="nccl")


def steps_without_waiting(name: str, source: str) -> list[float]:
    kind, how = SPREAD[name]
    device = torch.device("cuda", torch.cuda.current_device())
    trained = tiny.build(kind, device, compute=torch.bfloat16, microbatches=2, **how)
    batches = tiny.data(*trained.coordinates, 2, device, source)
    losses = []
    with attention_kernels("auto"):
        for step in range(1, 9):
            # allocations and communicators of the first steps may synchronise
            with no_waiting() if step > 3 else nullcontext():
                losses.append(trained.forward_backward(batches.batch(step)))
                trained.update(1e-3)
    return torch.stack(losses).tolist()


@pytest.mark.parametrize(("name", "source"), [("ddp", "synthetic"), *((name, "bytes") for name in SPREAD)])
def test_no_host_synchronisation_inside_a_step(name, source):
    ranks = min(2, torch.cuda.device_count())
    if ranks < 2 and SPREAD[name][1].get("degrees"):
        pytest.skip("needs two GPUs")
    told = run_ranks(ranks, steps_without_waiting, name, source, backend="nccl")
    means = [sum(losses) / ranks for losses in zip(*told, strict=True)]
    assert len(means) == 8
    assert all(0 < loss < 7 for loss in means)


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def run(request, tmp_path_factory):
    """Training on two GPUs where there are two; slow enough for the watchdog to time every collective."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_NCCL_ENABLE_TIMING", "1")
        ranks = min(2, torch.cuda.device_count())
        (wall, gradient_bytes), *_ = run_ranks(ranks, recorded, request.param, str(folder), 0.05, backend="nccl")
    return request.param, folder, wall, gradient_bytes


def test_device_times_tile_a_synchronised_window(run):
    """Steps by CUDA events and the pauses between them, against the host's clock around the loop."""
    _, folder, wall, _ = run
    steps = records(folder, "step")
    assert [record["step"] for record in steps] == list(range(1, STEPS + 1))
    told = sum(record["duration_s"] for record in steps + records(folder, "phase"))
    assert told == pytest.approx(wall, rel=0.01)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU exchanges nothing")
def test_the_flight_recorder_tells_the_bytes_of_the_gradients(run):
    kind, folder, _, gradient_bytes = run
    samples = records(folder, "collectives")
    assert samples
    for record in samples:
        assert (record["source"], record["partial"]) == ("flight_recorder", False)
        large = [o for o in record["operations"] if o["bytes"] * o["count"] > 1000]
        op = "all_reduce" if kind == "ddp" else "reduce_scatter"
        assert sum(o["bytes"] * o["count"] for o in large if o["op"] == op) == gradient_bytes
        assert all(o["duration_s"] > 0 for o in large)


def exchanged() -> tuple[list, list]:
    device = torch.device("cuda", torch.cuda.current_device())
    rank, exchange = torch.distributed.get_rank(), Exchange(device)
    largest = exchange.reduce(torch.tensor([rank, -rank]), torch.distributed.ReduceOp.MAX)
    rows = exchange.gather(torch.tensor([float(rank), float("nan")], dtype=torch.float64))
    return largest.result().tolist(), rows.result()[:, 0].tolist()


def test_exchange_brings_numbers_home_from_all_ranks():
    ranks = min(2, torch.cuda.device_count())
    for largest, rows in run_ranks(ranks, exchanged, backend="nccl"):
        assert largest == [ranks - 1, 0]
        assert rows == [float(rank) for rank in range(ranks)]
