"""What these devices give at most: the rate of a large matrix product, measured where and as the point will train.

A data sheet's peak is out of reach even for one product, since the power limit lowers the clock under such a load. The
product here has nothing beside it and runs on all ranks at once, which share power, cooling or cores in training too.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from harness.recorder.exchange import Exchange

SIZE = {"cuda": 8192, "cpu": 512}
"""Sides of the square factors: large enough that a larger product is no faster, by much, on one device or core."""

BATCH_S = {"cuda": 0.1, "cpu": 0.03}
BATCHES = 5

FLOAT8 = torch.float8_e4m3fn


def ceiling(kind: str, exchange: Exchange, device: torch.device) -> dict[str, Any] | None:
    """The `matmul` field of the `start` record; None where no rank has such a product.

    kind: `fp32`, `bf16` or `float8`, the type of the point's products. All ranks call this together.
    """
    dist.barrier()
    begin = time.perf_counter()
    size = fitting(SIZE[device.type], device)
    rate = product_rate(kind, size, device)
    if device.type == "cuda":
        # training finds the device's memory as if nothing had been measured: cuBLAS's workspace would stay, maybe in
        # the middle of a large block, and the peak would be the product's
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    told = torch.tensor([math.nan if rate is None else rate], dtype=torch.float64)
    rates = exchange.gather(told).result()[:, 0]
    if rates.isnan().all():
        return None
    slowest = int(rates.nan_to_num(math.inf).argmin())
    return {
        "size": size,
        "type": type_used(kind, device),
        "flops_per_s": float(rates.nanquantile(0.5)),
        "slowest_flops_per_s": float(rates[slowest]),
        "slowest_rank": slowest,
        "duration_s": time.perf_counter() - begin,
    }


def fitting(size: int, device: torch.device) -> int:
    """`size`, or less of it where three such matrices in fp32 would take more than half of the device's free memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        while 3 * 4 * size**2 > free / 2:
            size //= 2
    return size


def type_used(kind: str, device: torch.device) -> str:
    """The type in which the device multiplies: fp32 factors are rounded to tf32 where PyTorch is told to."""
    if kind == "fp32" and device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return "tf32"
    return kind


def product_rate(kind: str, size: int, device: torch.device) -> float | None:
    """FLOP/s of a product of two random matrices [size, size], median over batches; None where there is none.

    Random, since zeros switch few transistors and run faster than any training (13 % on an H200). The second factor
    is transposed, as a linear layer's weight is.
    """
    try:
        product = _product(kind, size, device)
        _seconds(product, 1, device)  # loads the kernels
    except RuntimeError:
        return None  # no such product on this device, or no memory for it
    count = max(1, round(BATCH_S[device.type] / _seconds(product, 1, device)))
    _seconds(product, count, device)  # warms up
    seconds = sorted(_seconds(product, count, device) for _ in range(BATCHES))
    return 2 * size**3 * count / seconds[BATCHES // 2]


def _product(kind: str, size: int, device: torch.device) -> Callable[[], Tensor]:
    """A function that multiplies the same two matrices each time."""
    compute = torch.float32 if kind == "fp32" else torch.bfloat16
    generator = torch.Generator(device).manual_seed(dist.get_rank())
    left, right = (torch.randn(size, size, generator=generator, device=device, dtype=compute) for _ in range(2))
    if kind != "float8":
        out = torch.empty(size, size, device=device, dtype=compute)
        return lambda: torch.mm(left, right.t(), out=out)
    one = torch.ones((), device=device)
    left8, right8 = left.to(FLOAT8), right.to(FLOAT8)
    # as torchao's float8 training has its forward products: one scale a tensor, fast accumulation
    return lambda: torch._scaled_mm(left8, right8.t(), one, one, out_dtype=compute, use_fast_accum=True)


def _seconds(product: Callable[[], Tensor], count: int, device: torch.device) -> float:
    """Seconds that the device takes for `count` products, one after another."""
    if device.type == "cpu":
        begin = time.perf_counter()
        for _ in range(count):
            product()
        return time.perf_counter() - begin
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    for _ in range(count):
        product()
    ended.record()
    ended.synchronize()
    return begun.elapsed_time(ended) / 1e3
