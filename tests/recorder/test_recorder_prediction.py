"""For every strategy a step's recorded bytes, by group and operation, are those that the plan predicts."""

import functools
from collections.abc import Mapping
from typing import Any

import pytest
import tiny_training as tiny
import torch
from plan_configs import config
from ranks import run_ranks

from harness.config import Config, Model, Parallel
from harness.plan.collectives import calls_per_step, traffic
from harness.recorder.gloo import GlooSampler
from harness.recorder.operations import StepOperations

SEQ = 512
"""Long enough for activations to be no small operations."""

OPTIONS = ("compute", "compile", "checkpointing", "shape", "tied")
"""What is said beside the fields of harness.config.Parallel."""

Case = tuple[int, str, int, dict[str, Any]]
"""Ranks, kind, microbatches and what else is said."""

CASES: list[Case] = [
    (2, "ddp", 2, {}),
    (2, "zero1", 2, {}),
    (2, "zero3", 1, {"shape": "wide"}),
    (2, "zero3", 2, {"shape": "mla"}),
    (2, "zero3", 1, {"shape": "one_layer"}),
    (2, "fsdp", 3, {}),
    (4, "hsdp", 2, {"replicas": 2, "tp": 2}),
    (2, "fsdp", 2, {"shape": "mla", "tp": 2, "checkpointing": "full"}),
    (2, "fsdp", 2, {"cp": 2}),
    (2, "ddp", 2, {"cp": 2, "context": "ulysses", "checkpointing": "full"}),
    (2, "ddp", 2, {"pp": 2}),
    (4, "fsdp", 4, {"tp": 2, "pp": 2}),
    (4, "fsdp", 2, {"shape": "moe", "ep": 4, "cp": 2}),
]
MORE: list[Case] = [
    (3, "zero2", 2, {"compute": torch.bfloat16}),
    (3, "zero3", 2, {"shape": "moe"}),
    (2, "zero3", 1, {"shape": "wide", "tied": True, "checkpointing": "full"}),
    (2, "zero3", 1, {"shape": "uneven"}),
    (4, "zero3", 2, {"shape": "mla_wide", "compute": torch.bfloat16}),
    (3, "zero3", 1, {"tied": True}),
    (2, "ddp", 1, {}),
    (3, "fsdp", 1, {"compute": torch.bfloat16}),
    (2, "fsdp", 3, {"reshard": False}),
    (2, "fsdp", 2, {"tied": True}),
    (4, "hsdp", 2, {"replicas": 2}),
    (2, "fsdp", 2, {"tp": 2}),
    (2, "fsdp", 1, {"tp": 2, "compute": torch.bfloat16}),
    (2, "fsdp", 2, {"tp": 2, "checkpointing": "selective"}),
    (2, "fsdp", 2, {"tp": 2, "checkpointing": "full", "compile": True}),
    (2, "fsdp", 2, {"shape": "moe", "tp": 2, "checkpointing": "full", "compile": True}),
    (2, "fsdp", 1, {"shape": "mla", "tp": 2, "checkpointing": "full", "compile": True, "compute": torch.bfloat16}),
    (
        4,
        "fsdp",
        1,
        {"shape": "moe", "tp": 2, "ep": 2, "checkpointing": "full", "compile": True, "compute": torch.bfloat16},
    ),
    (2, "fsdp", 2, {"shape": "moe", "tp": 2}),
    (4, "fsdp", 2, {"cp": 2, "checkpointing": "full"}),
    (2, "fsdp", 2, {"shape": "mla", "cp": 2}),
    (2, "fsdp", 2, {"pp": 2, "schedule": "gpipe"}),
    (2, "ddp", 4, {"pp": 2, "schedule": "interleaved", "virtual_stages": 2}),
    (2, "fsdp", 4, {"pp": 2, "schedule": "zero_bubble", "virtual_stages": 2}),
    (3, "fsdp", 2, {"shape": "moe"}),
    (2, "fsdp", 1, {"shape": "moe", "ep": 2}),
    (4, "fsdp", 2, {"shape": "mla", "ep": 2, "tp": 2}),
    (4, "fsdp", 2, {"shape": "mla", "ep": 2, "checkpointing": "full"}),
    (4, "hsdp", 1, {"shape": "moe", "ep": 2, "replicas": 2}),
]


def sampled(kind: str, microbatches: int, how: Mapping[str, Any]) -> StepOperations:
    """The third step's operations."""
    tiny.SEQ = SEQ
    if how.get("compile"):
        # code is what would take long, and moves nothing
        torch.compile = functools.partial(torch.compile, backend="aot_eager")
        torch.nn.Module.compile = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    degrees = {name: how[name] for name in ("replicas", "tp", "pp", "cp", "ep") if name in how}
    others = {name: value for name, value in how.items() if name not in degrees}
    device = torch.device("cpu")
    trained = tiny.build(kind, device, degrees, microbatches=microbatches, **others)
    batches = tiny.data(*trained.coordinates, microbatches, device)
    sampler = GlooSampler(trained.mesh.labels)
    for step in (1, 2):
        trained.forward_backward(batches.batch(step))
        trained.update(tiny.LR)
    sampler.before_sampled_step(3)
    trained.forward_backward(batches.batch(3))
    trained.update(tiny.LR)
    (told,) = sampler.after_sampled_step(3)
    return told


def planned(ranks: int, kind: str, microbatches: int, how: Mapping[str, Any]) -> Config:
    """The same as a point."""
    compute = "bf16" if how.get("compute") == torch.bfloat16 else "fp32"
    shape = tiny.sizes(how.get("shape", "dense"), how.get("tied", False))
    parallel = Parallel(kind, kind, **{name: value for name, value in how.items() if name not in OPTIONS})
    data_ranks = ranks // (parallel.tp * parallel.pp * parallel.cp)
    local_batch = tiny.SEQUENCES // data_ranks // microbatches
    return config(
        compute=compute,
        model=Model("tiny", **shape),
        parallel=parallel,
        gpus_per_node=ranks,
        scaling="strong",
        global_batch=local_batch * data_ranks * microbatches,
        local_batch=local_batch,
        seq_len=SEQ,
        activation_checkpointing=how.get("checkpointing", "none"),
        compile=how.get("compile", False),
    )


def recorded(ranks: list[StepOperations]) -> dict[tuple[str, str], int]:
    """Bytes by group and operation as the first rank records them."""
    groups = ranks[0].record(torch.stack([rank.row() for rank in ranks]), "profiler")["groups"]
    return {(group, op): told["bytes"] for group, ops in groups.items() for op, told in ops.items() if told["bytes"]}


def name(case: Case) -> str:
    ranks, kind, microbatches, how = case
    said = [f"{key}={str(value).removeprefix('torch.')}" for key, value in how.items()]
    return " ".join([f"{kind} on {ranks}", f"microbatches={microbatches}", *said])


def check(case: Case) -> None:
    world, kind, microbatches, how = case
    ranks = run_ranks(world, sampled, kind, microbatches, how)
    point = planned(world, kind, microbatches, how)
    predicted = {(told.group, told.op): told.bytes for told in traffic(point)}
    assert predicted
    assert recorded(ranks) == predicted
    assert all(len(rank.operations) <= calls_per_step(point) for rank in ranks)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_recorded_bytes_are_those_that_the_plan_predicts(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE, ids=name)
def test_they_are_in_further_combinations(case: Case) -> None:
    check(case)
