"""A model far larger than this machine is built as one rank of many holds it."""

import multiprocessing

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from harness.parallel.mesh import Mesh
from harness.plan.model import parameters
from harness.study.collect import collect
from harness.training import point

POINT = "model=70b parallel=fsdp parallel.tp=8 nodes=16 gpus_per_node=8 precision=bf16 hardware=h100_sxm"


def held_by_rank_0(results) -> None:
    """Build on a process group that only pretends to have other ranks; initial values are not drawn."""
    (config,) = collect(POINT.split(), False, lambda: 0)
    ranks = config.nodes * config.gpus_per_node
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    point.initialize = lambda *_, **__: None
    device = torch.device("cpu")
    trained = point.build(config, Mesh("cpu", point.arranged(config)), device)
    held = list(trained.model.parameters())
    results.put(
        {
            "whole": sum(p.numel() for p in held),
            "held": sum(p.to_local().numel() for p in held),
            "meta": sum(p.is_meta for p in held),
            "wq": trained.parts[0].blocks["0"].attention.wq.weight.to_local().shape,
            "embedding": trained.parts[0].embedding.weight.to_local().shape,
            "mesh": trained.mesh.shape,
            "expected": parameters(config.model),
        }
    )


def test_rank_0_of_70b_on_128_ranks_holds_a_128th():
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=held_by_rank_0, args=(results,), daemon=True)
    process.start()
    told = results.get(timeout=200)
    process.join(20)
    assert told["mesh"] == {"dp": 16, "tp": 8}
    assert told["meta"] == 0
    assert told["whole"] == told["expected"] == 70_553_706_496
    # only the norms' vectors are whole on each of 8 tensor-parallel ranks
    norms = (2 * 80 + 1) * 8192
    assert told["held"] == (told["expected"] - norms) // 128 + norms // 16
    assert tuple(told["wq"]) == (8192 // 8 // 16, 8192)
    assert tuple(told["embedding"]) == (128256 // 8 // 16, 8192)
