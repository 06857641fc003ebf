"""Ranks as forked processes that meet through a FileStore: a process group in about a second."""

import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

# whether there is CUDA is asked of the driver's library, which may be used before a fork, and not of CUDA
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"


def _rank(function: Callable[..., Any], rank: int, world: int, file: str, backend: str, results: Any, arguments: Any):
    try:
        torch.set_num_threads(1)
        if "torch._dynamo" in sys.modules:  # a rank counts its own graphs, not those compiled before the fork
            torch._dynamo.utils.counters.clear()
        # as torchrun tells it, and DeepSpeed asks
        os.environ["LOCAL_RANK"] = str(rank)
        device = None
        if backend == "nccl":
            torch.cuda.set_device(rank)
            device = torch.device("cuda", rank)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        store = dist.FileStore(file, world)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, device_id=device)
        results.put((rank, function(*arguments), None))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
        raise


def run_ranks(world: int, function: Callable[..., Any], *arguments: Any, backend: str = "gloo") -> list[Any]:
    """What `function` returned on each of `world` ranks; raises AssertionError with the traceback of one that failed.

    CPU ranks are forked, so this process must not have used autograd's threads before.
    """
    context = multiprocessing.get_context("spawn" if backend == "nccl" else "fork")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(
                target=_rank, args=(function, rank, world, f"{folder}/store", backend, results, arguments), daemon=True
            )
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        got = {}
        try:
            while len(got) < world:
                rank, value, error = results.get(timeout=120)
                assert error is None, f"rank {rank}:\n{error}"
                got[rank] = value
        finally:
            for process in processes:
                process.join(timeout=20 if len(got) == world else 0)
                process.kill()
    return [got[rank] for rank in range(world)]
