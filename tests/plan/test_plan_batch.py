from hypothesis import given, settings
from hypothesis import strategies as st
from plan_configs import config

from harness.config import Parallel
from harness.plan import batch


@settings(deadline=None)
@given(
    data=st.integers(1, 64), tp=st.integers(1, 8), pp=st.integers(1, 8), cp=st.integers(1, 8), local=st.integers(1, 8)
)
def test_under_weak_scaling_every_strategy_trains_on_the_same_tokens(
    data: int, tp: int, pp: int, cp: int, local: int
) -> None:
    ranks = data * tp * pp * cp
    alone = config(gpus_per_node=ranks, local_batch=local)
    shared = config(gpus_per_node=ranks, local_batch=local, parallel=Parallel("x", "fsdp", tp=tp, pp=pp, cp=cp))
    assert batch.tokens_per_step(shared) == batch.tokens_per_step(alone) == ranks * local * 2048
    assert batch.accumulation(shared) == tp * pp * cp
    assert batch.data_parallel(shared) == data


def test_under_strong_scaling_ranks_that_share_sequences_count_as_one() -> None:
    made = config(gpus_per_node=8, scaling="strong", global_batch=12, parallel=Parallel("x", "fsdp", tp=4))
    assert batch.accumulation(made) == 6


def test_experts_take_no_ranks_of_their_own() -> None:
    made = config("tiny_moe", gpus_per_node=8, parallel=Parallel("x", "fsdp", ep=8))
    assert batch.data_parallel(made) == 8
    assert batch.accumulation(made) == 1


def test_copies_divide_the_data_ranks() -> None:
    made = config(gpus_per_node=8, parallel=Parallel("x", "hsdp", replicas=2, tp=2))
    assert batch.shards(made) == 2


def test_ranks_that_share_sequences_have_parts_of_a_microbatch_and_those_that_share_layers_all() -> None:
    made = config(gpus_per_node=8, local_batch=3, parallel=Parallel("x", "fsdp", tp=2, cp=4))
    assert batch.tokens(made) == 3 * 2048 // 4
