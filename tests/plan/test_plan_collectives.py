"""What a step moves, by hand for published shapes. tests/recorder compares it with what training records."""

from dataclasses import replace
from typing import Any

import pytest
from plan_configs import config

from harness.config import Config, Parallel
from harness.plan.collectives import calls_per_step, traffic
from harness.plan.model import block_parameters, embedding_parameters, expert_parameters, parameters

BF16, FP32, INT64 = 2, 4, 8


def point(shape: str, kind: str, ranks: int, compute: str = "bf16", **fields: Any) -> Config:
    keys = {key: fields.pop(key) for key in ("nodes", "seq_len", "local_batch") if key in fields}
    return config(shape, compute=compute, gpus_per_node=ranks, parallel=Parallel(kind, kind, **fields), **keys)


def moved(made: Config) -> dict[tuple[str, str], int]:
    return {(told.group, told.op): told.bytes for told in traffic(made)}


def test_ddp_reduces_every_gradient_once_in_fp32() -> None:
    made = point("8b", "ddp", 8)
    assert moved(made) == {("dp", "all_reduce"): FP32 * parameters(made.model)}


def test_one_rank_moves_nothing() -> None:
    assert traffic(point("1b", "ddp", 1)) == traffic(point("1b", "fsdp", 1)) == []


def test_fsdp_gathers_twice_in_the_compute_type_and_scatters_once_in_fp32() -> None:
    made = point("8b", "fsdp", 8)
    whole, head = parameters(made.model), embedding_parameters(made.model) + made.model.dim
    assert moved(made) == {
        ("dp", "all_gather"): BF16 * (2 * whole - head),
        ("dp", "reduce_scatter"): FP32 * whole,
    }
    kept = replace(made, parallel=replace(made.parallel, reshard=False))
    assert moved(kept)["dp", "all_gather"] == BF16 * whole


def test_a_dimension_that_ranks_do_not_divide_moves_with_its_padding() -> None:
    made = point("8b", "fsdp", 3)
    # 4096 and 1024 rows become 4098 and 1026, 14336 become 14337, 128256 divide
    m = made.model
    block = 2 * 4098 + (2 * 4098 + 2 * 1026) * m.dim + 2 * 14337 * m.dim + 4098 * m.ffn_dim
    assert moved(made)["dp", "reduce_scatter"] == FP32 * (m.layers * block + 2 * embedding_parameters(m) + 4098)


def test_hsdp_scatters_inside_a_copy_and_adds_up_shards_between_them() -> None:
    made = point("8b", "hsdp", 8, replicas=2)
    whole = parameters(made.model)
    assert moved(made)["dp_shard", "reduce_scatter"] == FP32 * whole
    assert moved(made)["dp_replicate", "all_reduce"] == FP32 * whole // 4


def test_tensor_parallel_layers_gather_and_scatter_the_sequence_forward_and_backward() -> None:
    made = point("8b", "fsdp", 2, tp=2, seq_len=8192)
    stream, m = 8192 * 4096 * BF16, made.model
    # two microbatches; each of two layers of a block both ways, the embedding's scatter and the head's gather
    calls = 2 * (2 * 2 * m.layers + 2)
    assert moved(made) == {("tp", "all_gather"): stream * calls, ("tp", "reduce_scatter"): stream * calls}


def test_numbers_of_a_token_count_once_they_are_no_small_operation() -> None:
    # three of 4 bytes for each of 16384 tokens in the loss: maximum, sum and own logit
    made = point("8b", "fsdp", 2, tp=2, seq_len=16384)
    assert moved(made)["tp", "all_reduce"] == 2 * 3 * 16384 * FP32


def test_tokens_travel_to_their_experts_however_few_they_are() -> None:
    made = point("tiny_moe", "fsdp", 2, ep=2, seq_len=16, local_batch=1)
    m = made.model
    rows, blocks = 16 * m.experts_per_token, m.layers - m.dense_layers
    assert rows * m.dim * BF16 < 64 * 1024
    assert moved(made)["ep", "all_to_all"] == blocks * 4 * rows * m.dim * BF16


def test_parameters_that_tensor_parallel_ranks_have_whole_get_a_sum_of_gradients() -> None:
    made = point("mla_moe_16b", "fsdp", 2, tp=2)
    m = made.model
    latent = (m.kv_lora_rank + m.rope_head_dim) * m.dim
    gate = m.experts * m.dim
    assert moved(made)["tp", "all_reduce"] == FP32 * (m.layers * latent + (m.layers - 1) * gate)


def test_recomputation_repeats_all_of_a_block_but_its_last_sum() -> None:
    made = point("8b", "fsdp", 2, tp=2)
    again = replace(made, activation_checkpointing="full")
    stream, blocks = 2048 * 4096 * BF16, 2 * made.model.layers
    assert moved(again)["tp", "all_gather"] - moved(made)["tp", "all_gather"] == stream * 2 * blocks
    assert moved(again)["tp", "reduce_scatter"] - moved(made)["tp", "reduce_scatter"] == stream * blocks
    assert traffic(replace(made, activation_checkpointing="selective")) == traffic(made)


def test_context_parallel_ranks_gather_keys_and_values_and_scatter_their_gradients() -> None:
    made = point("8b", "ddp", 8, cp=4, seq_len=8192)
    keys = 8192 * 2 * 8 * 128 * BF16
    calls = 4 * made.model.layers
    assert moved(made)["cp", "all_gather"] == moved(made)["cp", "reduce_scatter"] == keys * calls


def test_ulysses_exchanges_queries_keys_values_and_what_they_give() -> None:
    made = point("8b", "ddp", 8, cp=4, context="ulysses", seq_len=8192)
    own = 8192 // 4 * (2 * 32 + 2 * 8) * 128 * BF16
    assert moved(made)["cp", "all_to_all"] == own * 2 * 4 * made.model.layers


def test_the_first_stage_sends_each_microbatch_once_and_with_virtual_stages_more_often() -> None:
    made = point("8b", "fsdp", 4, pp=4, seq_len=8192)
    stream = 8192 * 4096 * BF16
    assert moved(made)["pp", "send_recv"] == 4 * stream
    fields = {"schedule": "interleaved", "virtual_stages": 2}
    twice = replace(made, parallel=replace(made.parallel, **fields))
    assert moved(twice)["pp", "send_recv"] == 3 * 4 * stream
    split = point("8b", "fsdp", 8, pp=4, tp=2, seq_len=8192)
    assert moved(split)["pp", "send_recv"] == 8 * stream // 2


def test_stages_gather_once_a_step() -> None:
    made = point("8b", "fsdp", 8, pp=4)
    first = 8 * block_parameters(made.model) + embedding_parameters(made.model)
    assert moved(made)["dp", "all_gather"] == BF16 * first


def test_tokens_travel_to_their_experts_and_back_both_ways() -> None:
    made = point("moe_8x7b", "fsdp", 8, ep=4, seq_len=4096)
    m = made.model
    assert moved(made)["ep", "all_to_all"] == 4096 * 2 * m.dim * BF16 * 4 * m.layers
    routed = m.layers * m.experts * expert_parameters(m)
    assert moved(made)["edp", "reduce_scatter"] == FP32 * routed // 4
    assert moved(made)["dp", "reduce_scatter"] == FP32 * (parameters(m) - routed)


@pytest.mark.parametrize(
    ("fields", "label"), [({"ep": 4}, "ep"), ({"ep": 4, "cp": 2}, "ep"), ({"ep": 4, "cp": 4}, "cp")], ids=str
)
def test_ranks_that_share_experts_are_those_that_share_sequences_where_they_are_as_many(
    fields: dict[str, int], label: str
) -> None:
    assert [told.group for told in traffic(point("moe_8x7b", "fsdp", 8, **fields)) if told.op == "all_to_all"] == [
        label
    ]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_ring_holds_more_calls_than_a_step_has(kind: str) -> None:
    made = point("8b", kind, 8, pp=2)
    assert calls_per_step(made) > sum(told.count for told in traffic(made))
    assert calls_per_step(point("405b", "ddp", 8)) > FP32 * parameters(config("405b").model) // (25 << 20)
