from dataclasses import replace

import pytest
from plan_configs import config

from harness.config import Config, Parallel
from harness.plan.memory import Memory, estimate
from harness.plan.model import parameters

GIB = 2**30


@pytest.mark.parametrize(
    ("parallel", "gpus", "measured_gib"),
    [("fsdp", 1, 43.8), ("fsdp", 2, 35.4), ("fsdp", 4, 31.2), ("ddp", 1, 55.2), ("ddp", 4, 55.2)],
)
def test_the_estimate_is_near_what_was_measured_on_h200(parallel: str, gpus: int, measured_gib: float) -> None:
    """Peaks of docs/measurements: 1b, bf16, two sequences of 8192 tokens, compiled, no checkpointing."""
    point = config("1b", parallel, "bf16", seq_len=8192, local_batch=2, compile=True, gpus_per_node=gpus)
    assert estimate(point).total / GIB == pytest.approx(measured_gib, rel=0.1)


def test_the_estimate_holds_for_a_model_it_was_not_fitted_to() -> None:
    """8b of docs/measurements: one sequence of 8192 tokens, 4 GPUs, 61.6 GiB."""
    point = config("8b", "fsdp", "bf16", seq_len=8192, local_batch=1, compile=True, gpus_per_node=4)
    assert estimate(point).total / GIB == pytest.approx(61.6, rel=0.1)


def test_ddp_keeps_parameters_gradients_and_moments_whole_in_fp32() -> None:
    count = parameters(config("1b").model)
    memory = estimate(config("1b", "ddp", "bf16", gpus_per_node=8))
    assert (memory.parameters, memory.gradients, memory.optimizer) == (4 * count, 4 * count, 8 * count)


def test_fsdp_divides_them_by_the_ranks_and_rounds_up() -> None:
    count = parameters(config("1b").model)
    memory = estimate(config("1b", "fsdp", "bf16", gpus_per_node=3))
    assert memory.parameters == 4 * -(-count // 3)
    assert memory.optimizer == 2 * memory.gradients == 2 * memory.parameters


def test_without_reshard_all_parameters_stay_gathered_in_the_compute_type() -> None:
    point = config("8b", "fsdp", "bf16", gpus_per_node=8)
    kept = replace(point, parallel=replace(point.parallel, reshard=False))
    assert estimate(kept).compute_copies == 2 * parameters(point.model)
    assert estimate(point).compute_copies < estimate(kept).compute_copies / 5


def test_ddp_in_fp32_needs_no_copies_of_its_weights() -> None:
    assert estimate(config("1b", "ddp", "fp32")).compute_copies == 0
    assert estimate(config("1b", "ddp", "bf16", gpus_per_node=8)).compute_copies > 0


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_checkpointing_keeps_little_of_a_deep_model(kind: str) -> None:
    point = config("8b", kind, "bf16", seq_len=8192, gpus_per_node=8)
    full = replace(point, activation_checkpointing="full")
    assert estimate(full).activations < estimate(point).activations / 8


@pytest.mark.parametrize("change", [{"local_batch": 2}, {"seq_len": 4096}])
def test_activations_and_logits_grow_with_the_tokens_and_nothing_else_does(change: dict[str, int]) -> None:
    point = config("125m", "fsdp", "bf16", seq_len=2048, gpus_per_node=4)
    once, twice = estimate(point), estimate(replace(point, **change))
    assert twice == replace(once, activations=2 * once.activations, logits=2 * once.logits)


def test_the_peak_holds_gradients_beside_activations_only_where_they_stand_together() -> None:
    assert Memory(1, 2, 4, 8, 16, 32, gradients_last=False).total == 63
    assert Memory(1, 2, 4, 8, 16, 32, gradients_last=True).total == 61
    assert Memory(1, 100, 4, 8, 16, 32, gradients_last=True).total == 113


def test_accumulation_costs_no_memory_with_ddp_and_whole_gradients_with_fsdp() -> None:
    ddp: Config = config("125m", scaling="strong", gpus_per_node=4, global_batch=4)
    fsdp = replace(ddp, parallel=Parallel("fsdp", "fsdp"))
    assert estimate(ddp) == estimate(replace(ddp, global_batch=64))
    once, often = (estimate(replace(fsdp, global_batch=batch)) for batch in (4, 64))
    assert often == replace(once, gradients=4 * once.gradients, gradients_last=False)
