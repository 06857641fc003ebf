from dataclasses import replace
from typing import Any

import pytest
from plan_configs import config, rows

from harness.config import Config, Optimizer, Parallel
from harness.plan.memory import Memory, estimate
from harness.plan.model import expert_parameters, parameters

GIB = 2**30


@pytest.mark.parametrize("row", rows("models.md", "Kind"), ids=" ".join)
def test_the_estimate_is_near_what_was_measured_on_h200(row: list[str]) -> None:
    """Peaks of docs/measurements: bf16, sequences of 8192 tokens, compiled, no checkpointing; fitted to those of 1b."""
    kind, model, batch, gpus, measured, told = row
    point = config(model, kind, "bf16", seq_len=8192, local_batch=int(batch), compile=True, gpus_per_node=int(gpus))
    estimated = estimate(point).total / GIB
    assert estimated == pytest.approx(float(measured), rel=0.1)
    assert f"{estimated:.1f}" == told


def test_ddp_keeps_parameters_and_moments_whole_in_fp32_and_two_sets_of_gradients() -> None:
    count = parameters(config("1b").model)
    memory = estimate(config("1b", "ddp", "bf16", gpus_per_node=8))
    assert (memory.parameters, memory.gradients, memory.optimizer) == (4 * count, 8 * count, 8 * count)


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


def test_fully_sharded_gradients_of_a_block_are_whole_before_they_are_divided() -> None:
    one_b = config("1b")
    point = replace(one_b, parallel=Parallel("fsdp", "fsdp"), gpus_per_node=8)
    m = one_b.model
    projections = m.dim * m.head_dim * (2 * m.heads + 2 * m.kv_heads)
    assert estimate(point).reducing == 4 * (projections + 3 * m.dim * m.ffn_dim + 2 * m.dim)
    assert estimate(config("1b", "ddp")).reducing == 0


@pytest.mark.parametrize("change", [{"local_batch": 2}, {"seq_len": 4096}])
def test_activations_and_logits_grow_with_the_tokens_and_nothing_else_does(change: dict[str, int]) -> None:
    point = config("125m", "fsdp", "bf16", seq_len=2048, gpus_per_node=4)
    once, twice = estimate(point), estimate(replace(point, **change))
    assert twice == replace(once, activations=2 * once.activations, logits=2 * once.logits)


def test_the_peak_holds_gradients_beside_activations_only_where_they_stand_together() -> None:
    assert Memory(1, 2, 0, 4, 8, 16, 32, gradients_last=False).total == 63
    assert Memory(1, 2, 0, 4, 8, 16, 32, gradients_last=True).total == 61
    assert Memory(1, 60, 40, 4, 8, 16, 32, gradients_last=True).total == 113


def test_accumulation_costs_no_memory_with_ddp_and_whole_gradients_with_fsdp() -> None:
    ddp: Config = config("125m", scaling="strong", gpus_per_node=4, global_batch=4)
    fsdp = replace(ddp, parallel=Parallel("fsdp", "fsdp"))
    assert estimate(ddp) == estimate(replace(ddp, global_batch=64))
    once, often = (estimate(replace(fsdp, global_batch=batch)) for batch in (4, 64))
    assert often == replace(once, gradients=4 * once.gradients, reducing=0, gradients_last=False)


def spread(shape: str, kind: str = "fsdp", ranks: int = 8, compute: str = "bf16", **fields: Any) -> Config:
    keys = ("seq_len", "local_batch", "compile", "activation_checkpointing", "optimizer", "scaling", "global_batch")
    changes = {key: fields.pop(key) for key in keys if key in fields}
    return config(shape, compute=compute, gpus_per_node=ranks, parallel=Parallel(kind, kind, **fields), **changes)


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "hsdp"])
def test_moments_in_bf16_take_half(kind: str) -> None:
    fields = {"replicas": 2} if kind == "hsdp" else {}
    wide = estimate(spread("1b", kind, **fields))
    narrow = estimate(spread("1b", kind, optimizer=Optimizer(state="bf16"), **fields))
    assert narrow == replace(wide, optimizer=wide.optimizer // 2)


def test_copies_of_the_model_divide_what_shards_it() -> None:
    assert estimate(spread("1b", "hsdp", replicas=2)).parameters == estimate(spread("1b", ranks=4)).parameters


@pytest.mark.parametrize(("compile", "copies", "alone"), [(True, 5, 2), (False, 8, 6)])
def test_a_loss_over_a_split_vocabulary_keeps_fp32(compile: bool, copies: int, alone: int) -> None:
    """Logits in bf16 take one copy, those in fp32 two."""
    logits = 2 * 2048 * config("8b").model.vocab_size
    assert estimate(spread("8b", compile=compile)).logits == alone * logits
    assert estimate(spread("8b", compile=compile, tp=2)).logits == copies * logits // 2


def test_tensor_parallel_ranks_divide_parameters_logits_and_what_is_not_gathered() -> None:
    one, two = estimate(spread("8b")), estimate(spread("8b", tp=2))
    assert two.parameters == pytest.approx(one.parameters, rel=1e-3)
    assert two.compute_copies == pytest.approx(one.compute_copies / 2, rel=1e-3)
    assert one.activations / 2 < two.activations < one.activations
    # two microbatches, so gradients wait whole for the last, of half the model
    assert two.gradients == pytest.approx(4 * parameters(config("8b").model) / 2, rel=1e-3)


def test_context_parallel_ranks_divide_activations_but_for_keys_and_values() -> None:
    one, four = spread("8b", seq_len=8192), spread("8b", cp=4, seq_len=8192)
    keys = 32 * 8192 * 2 * 8 * 128 * 2
    assert estimate(four).activations == estimate(one).activations / 4 + keys
    assert estimate(four).logits == estimate(one).logits / 4


def test_1f1b_holds_as_many_microbatches_as_stages_and_gpipe_all() -> None:
    same = {"pp": 4, "scaling": "strong", "global_batch": 32, "seq_len": 4096}
    alone, few, all_of_them = (
        estimate(spread("8b", **fields)).activations
        for fields in ({"seq_len": 4096}, same, {**same, "schedule": "gpipe"})
    )
    assert few == pytest.approx(alone, rel=0.25)
    assert all_of_them > 3.5 * few


def test_a_pipeline_is_told_by_the_rank_that_needs_most() -> None:
    """The first stage waits longest for gradients; a large vocabulary's logits make it the last."""
    first = estimate(spread("405b", ranks=16, pp=16, seq_len=8192))
    last = estimate(spread("1b", pp=2, seq_len=8192, local_batch=8, activation_checkpointing="full"))
    assert first.logits == 0
    assert last.logits > 0


def test_experts_over_ranks_divide_them_and_not_the_rest() -> None:
    model = config("moe_8x7b").model
    alone, over = (estimate(spread("moe_8x7b", "fsdp", 8, **fields)) for fields in ({}, {"ep": 8}))
    assert over.parameters == pytest.approx(alone.parameters, rel=1e-6)
    # gathered: two blocks of all 8 experts, or of the rank's own
    each = model.experts * expert_parameters(model)
    assert alone.compute_copies - over.compute_copies == 2 * 2 * each * 7 // 8


def test_each_of_a_tokens_experts_keeps_its_activations() -> None:
    point = spread("moe_8x7b")
    twice = replace(point, model=replace(point.model, experts_per_token=4))
    more = estimate(twice).activations - estimate(point).activations
    m = point.model
    assert more == m.layers * 2048 * 2 * (2 * 2 * m.dim + 4 * 2 * m.expert_ffn_dim)


def test_latent_attention_keeps_wide_keys_and_values_for_its_kernels() -> None:
    plain = spread("tiny_mla")
    wider = replace(plain, model=replace(plain.model, rope_head_dim=24))
    assert estimate(wider).activations > estimate(plain).activations


@pytest.mark.parametrize("shape", ["8b", "moe_8x7b", "mla_moe_16b"])
def test_selective_checkpointing_lies_between_none_and_full(shape: str) -> None:
    full, selective, none = (
        estimate(spread(shape, seq_len=8192, activation_checkpointing=how)).activations
        for how in ("full", "selective", "none")
    )
    assert full < selective < none
