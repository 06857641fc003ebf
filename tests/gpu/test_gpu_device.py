"""On a GPU: what its driver tells of it, and the rate of a matrix product."""

import time

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks

from harness.recorder.ceiling import ceiling
from harness.recorder.exchange import Exchange
from harness.recorder.nvml import Gpus
from harness.recorder.surroundings import device_uuids

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU has nobody to talk to")


def under_load(seconds: float) -> tuple[dict, dict, float, set]:
    """What this GPU tells before and after `seconds` of products, the seconds between, and what failed."""
    gpus = Gpus(device_uuids(1), first_rank=0)
    factor = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    torch.cuda.synchronize()
    (before,) = gpus.read()
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        for _ in range(50):
            factor @ factor
        torch.cuda.synchronize()
    (after,) = gpus.read()
    return before, after, time.monotonic() - begin, gpus.problems


def test_energy_rises_by_the_power_under_load():
    ((before, after, seconds, problems),) = run_ranks(1, under_load, 3.0, backend="nccl")
    assert problems == set()
    assert before["index"] is not None and before["memory_bytes"] > 2 * 8192**2
    assert before["clock_sm_mhz"] > 0 and before["clock_memory_mhz"] > 0 and before["temperature_c"] > 0
    assert before["errors"]["ecc_uncorrected"] is not None
    assert before["pcie_tx_bytes_per_s"] is not None
    joules = after["energy_j"] - before["energy_j"]
    assert joules > 0
    # power is a mean of the last second: the load's own, which the first second lacks a part of
    assert joules / seconds == pytest.approx(after["power_w"], rel=0.3)
    assert after["power_w"] < 1.1 * after["power_limit_w"], "the cap holds"
    assert isinstance(after["throttling"], list)


def polled() -> list[float]:
    gpus = Gpus(device_uuids(torch.cuda.device_count()), first_rank=0)
    gpus.read()
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        gpus.read()
        took.append(time.perf_counter() - begin)
    return took


def test_a_poll_takes_little():
    (took,) = run_ranks(1, polled, backend="nccl")
    print(f"a poll of {torch.cuda.device_count()} GPUs: {min(took) * 1e3:.1f} ms, of which PCIe 40")
    assert min(took) < 0.5


BYTES, TIMES = 256 * 2**20, 40


def exchanged() -> tuple[dict, dict]:
    gpus = Gpus(device_uuids(2), first_rank=0)
    tensor = torch.ones(BYTES // 4, device="cuda")
    dist.all_reduce(tensor)
    torch.cuda.synchronize()
    dist.barrier()
    before = gpus.read()[dist.get_rank()]
    for _ in range(TIMES):
        dist.all_reduce(tensor)
    torch.cuda.synchronize()
    dist.barrier()
    time.sleep(0.2)
    return before, gpus.read()[dist.get_rank()]


@two_gpus
def test_nvlink_counters_rise_by_the_bytes_of_an_all_reduce():
    for before, after in run_ranks(2, exchanged, backend="nccl"):
        if before["nvlink_tx_bytes"] is None:
            pytest.skip("these GPUs have no NVLink")
        # a ring of two: each rank sends and receives the whole buffer; protocols add a little, LL128 a fifteenth
        for way in ("nvlink_tx_bytes", "nvlink_rx_bytes"):
            assert after[way] - before[way] == pytest.approx(BYTES * TIMES, rel=0.15)
        assert after["errors"]["nvlink_crc"] == before["errors"]["nvlink_crc"]


def ceilings(kinds: tuple[str, ...]) -> list[tuple[dict | None, int, int]]:
    """Of each type: what was measured, and the memory allocated and its peak afterwards."""
    device = torch.device("cuda", torch.cuda.current_device())
    told = []
    for kind in kinds:
        measured = ceiling(kind, Exchange(device), device)
        told.append((measured, torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()))
    return told


def test_a_product_is_measured_in_under_two_seconds_and_leaves_no_memory():
    for rank in run_ranks(min(2, torch.cuda.device_count()), ceilings, ("bf16", "fp32"), backend="nccl"):
        for measured, reserved, peak in rank:
            print(measured)
            assert measured["duration_s"] < 2
            assert peak <= reserved < 32 * 2**20, "neither factors nor cuBLAS's workspace"
        bf16, fp32 = (measured for measured, _, _ in rank)
        assert (bf16["size"], bf16["type"], fp32["type"]) == (8192, "bf16", "fp32")
        assert fp32["flops_per_s"] < bf16["flops_per_s"]


@pytest.mark.skipif(
    not torch.cuda.is_available() or "H200" not in torch.cuda.get_device_name(), reason="the bounds are an H200's"
)
def test_an_h200_gives_what_an_h200_can():
    (told,) = run_ranks(1, ceilings, ("bf16", "fp32", "float8"), backend="nccl")
    bf16, fp32, float8 = (measured for measured, _, _ in told)
    assert 600e12 < bf16["flops_per_s"] < 900e12
    assert 30e12 < fp32["flops_per_s"] < 67e12, "plain fp32, not tf32"
    assert 1000e12 < float8["flops_per_s"] < 1979e12
