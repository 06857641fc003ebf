import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_configs import ROOT, config

from harness.config import Checkpoint, Config, Data, Launcher, Nccl, Optimizer, Parallel
from harness.fields import check_fields
from harness.plan.hardware import named
from harness.plan.model import flops_per_token
from harness.plan.point import ASSUMED_MFU, ASSUMED_START, plan

GIB = 2**30


def planned(point: Config):
    check_fields(point)
    return plan(point, None, None)


@settings(deadline=None)
@given(nodes=st.integers(1, 512), gpus=st.integers(1, 16), local_batch=st.integers(1, 64), times=st.integers(1, 32))
def test_strong_scaling_reaches_exactly_the_global_batch(nodes: int, gpus: int, local_batch: int, times: int) -> None:
    batch = nodes * gpus * local_batch * times
    made = planned(
        config(scaling="strong", nodes=nodes, gpus_per_node=gpus, local_batch=local_batch, global_batch=batch)
    )
    assert made.accumulation == times
    assert made.tokens_per_step == batch * 2048
    assert made.world_size == made.data_parallel == nodes * gpus


@settings(deadline=None)
@given(nodes=st.integers(1, 512), gpus=st.integers(1, 16), local_batch=st.integers(1, 64))
def test_weak_scaling_gives_every_rank_the_same_tokens(nodes: int, gpus: int, local_batch: int) -> None:
    made = planned(config(nodes=nodes, gpus_per_node=gpus, local_batch=local_batch))
    assert made.accumulation == 1
    assert made.tokens_per_step == nodes * gpus * local_batch * 2048


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": 0}, "nodes=0: must be at least 1"),
        ({"study": ".hidden"}, "study=.hidden: must be"),
        ({"study": "a/b"}, "study=a/b: must be"),
        ({"study": "x" * 65}, "study=x+: must be 1 to 64"),
        ({"study": "two\n"}, "study=two"),
        ({"seed": 2**63}, "seed=9223372036854775808: must be at most 9223372036854775807"),
        ({"optimizer": Optimizer(lr=math.inf)}, "optimizer.lr=inf: must be a finite number"),
        ({"optimizer": Optimizer(weight_decay=math.nan)}, "optimizer.weight_decay=nan: must be a finite number"),
        ({"optimizer": Optimizer(beta2=0.999, state="bf16")}, "optimizer.beta2=0.999: must be below 0.9961 with"),
        (
            {"launcher": Launcher("local", "local", timeout_s=math.inf)},
            "launcher.timeout_s=inf: must be a finite number",
        ),
        ({"nccl": Nccl("")}, "nccl.name=: must be 1 to 64 letters"),
        ({"parallel": Parallel("../x", "ddp")}, "parallel.name=../x: must be 1 to 64 letters"),
        ({"steps": 5, "warmup": 5}, "steps=5: must be more than warmup=5"),
        ({"global_batch": 64}, "global_batch=64: .*strong"),
        ({"scaling": "strong"}, "global_batch.*scaling=strong needs|scaling=strong: needs global_batch"),
        (
            {"scaling": "strong", "global_batch": 48, "local_batch": 2, "nodes": 2, "gpus_per_node": 8},
            "global_batch=48: must be a multiple of .* 2 . 16 = 32",
        ),
        ({"nccl": Nccl("x", {"NCCL_P2P_DISABLE": 2})}, "nccl.env.NCCL_P2P_DISABLE=2: must be 0 or 1"),
        ({"data": Data("tokens", "tokens")}, "data.path=null"),
        ({"data": Data("bytes", "bytes", path="/tmp/x")}, "data.path=/tmp/x: data.kind=bytes reads no file"),
        ({"data": Data("bytes", "bytes", dtype="uint32")}, "data.dtype=uint32: data.kind=bytes reads no file"),
        ({"optimizer": Optimizer(lr_final=7)}, "optimizer.lr_final=7: must be at most 1"),
        ({"optimizer": Optimizer(lr_warmup=50)}, "optimizer.lr_warmup=50: must be less than steps=50"),
    ],
    ids=str,
)
def test_a_point_that_cannot_run_is_refused_in_one_sentence(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        planned(config(**changes))
    assert str(caught.value).count("\n") == str(changes.get("study", "")).count("\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 6}, "model.heads=6: must be a multiple of model.kv_heads=4"),
        ({"name": ".x"}, "model.name=.x: must be 1 to 64 letters"),
        ({"rope_theta": math.inf}, "model.rope_theta=inf: must be a finite number"),
        ({"head_dim": 33}, "model.head_dim=33: must be even"),
        ({"vocab_size": 100}, "model.vocab_size=100: data.kind=bytes needs at least 256"),
        ({"rope_head_dim": 8}, "model.rope_head_dim=8: must be 0 without latent attention"),
        ({"v_head_dim": 16}, "model.v_head_dim=16: must be 0 without latent attention"),
        ({"experts_per_token": 2}, "model.experts_per_token=2: must be 0 without experts"),
        ({"shared_experts": 1}, "model.shared_experts=1: must be 0 without experts"),
        ({"dense_layers": 1}, "model.dense_layers=1: must be 0 without experts"),
        ({"balance": "bias"}, "model.balance=bias: must be none without experts"),
        ({"balance_rate": 0.01}, "model.balance_rate=0.01: must be left out without experts"),
        ({"normalise_routes": False}, "model.normalise_routes=False: must be left out without experts"),
    ],
    ids=str,
)
def test_an_impossible_model_is_refused(changes: dict[str, object], message: str) -> None:
    refused("tiny", changes, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_head_dim": 0}, "model.rope_head_dim=0: must be even and at least 2"),
        ({"rope_head_dim": 7}, "model.rope_head_dim=7: must be even"),
        ({"v_head_dim": 0}, "model.v_head_dim=0: must be at least 1"),
        ({"kv_heads": 4}, "model.kv_heads=4: must be model.heads=8 with latent attention"),
        ({"experts_per_token": 9}, "model.experts_per_token=9: must be from 1 to model.experts=8"),
        ({"experts_per_token": 0}, "model.experts_per_token=0: must be from 1"),
        ({"expert_ffn_dim": 0}, "model.expert_ffn_dim=0: must be at least 1"),
        ({"dense_layers": 5}, "model.dense_layers=5: must be at most model.layers=4"),
    ],
    ids=str,
)
def test_impossible_latent_attention_and_experts_are_refused(changes: dict[str, object], message: str) -> None:
    refused("tiny_mla", changes, message)


def refused(shape: str, changes: dict[str, object], message: str) -> None:
    point = config(shape, data=Data("bytes", "bytes"))
    with pytest.raises(ValueError, match=message):
        planned(replace(point, model=replace(point.model, **changes)))


@pytest.mark.parametrize("shape", ["tiny", "tiny_moe", "tiny_mla", "moe_8x7b", "mla_moe_16b", "405b"])
def test_presets_are_possible(shape: str) -> None:
    assert planned(config(shape)).warnings == []


def test_a_token_file_is_checked_against_the_sequence(tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(bytes(2 * 2048))
    with pytest.raises(ValueError, match="2048 ids are fewer than the 2049 that seq_len=2048 needs"):
        planned(config(data=Data("tokens", "tokens", str(tmp_path / "ids"))))


def test_too_much_memory_is_refused_with_how_much_and_what_would_fit() -> None:
    point = config("8b", "fsdp", "bf16", nodes=1, gpus_per_node=8, seq_len=8192, local_batch=4, compile=True)
    with pytest.raises(
        ValueError, match=r"model.name=8b: needs about \d+\.\d GiB on a rank, \d+\.\d GiB more"
    ) as caught:
        plan(point, None, 80 * GIB)
    assert "activation_checkpointing=full or local_batch=1 would fit" in str(caught.value)
    assert "parallel=fsdp" not in str(caught.value)


def test_a_sharded_model_that_is_too_large_is_sent_to_tensor_parallelism_inside_a_host() -> None:
    point = config("70b", "fsdp", "bf16", nodes=16, gpus_per_node=8, seq_len=32768, activation_checkpointing="full")
    with pytest.raises(ValueError, match=r"; parallel.tp=8 would fit"):
        plan(point, None, 80 * GIB)
    plan(replace(point, parallel=replace(point.parallel, tp=8)), None, 80 * GIB)


def test_a_replicated_pipeline_that_is_too_large_keeps_its_degrees() -> None:
    point = config("8b", "ddp", "bf16", nodes=4, gpus_per_node=8, parallel=Parallel("pp", "ddp", pp=4))
    with pytest.raises(ValueError, match=r"parallel.kind=fsdp would fit"):
        plan(point, None, 30 * GIB)


def test_a_pipeline_takes_longer_by_its_bubble() -> None:
    point = config("8b", "fsdp", "bf16", gpus_per_node=8, steps=100)
    flat = plan(point, named("h200"), None).seconds - ASSUMED_START
    for fields, waits in (
        ({"schedule": "1f1b"}, 3 / 4),
        ({"schedule": "interleaved", "virtual_stages": 2}, 3 / 4 / 2),
        ({"schedule": "zero_bubble", "virtual_stages": 2}, 3 / 4 / 2 / 3),
    ):
        staged = replace(point, parallel=Parallel("pp", "fsdp", pp=4, **fields))
        assert plan(staged, named("h200"), None).seconds - ASSUMED_START == pytest.approx(flat * (1 + waits))


def test_a_replicated_model_that_is_too_large_is_sent_to_fsdp() -> None:
    with pytest.raises(ValueError, match=r"; parallel=fsdp would fit"):
        plan(config("8b", "ddp", "bf16", nodes=4, gpus_per_node=8), None, 80 * GIB)


@pytest.mark.parametrize(
    ("parallel", "limit", "help"),
    [
        (Parallel("fsdp", "fsdp", reshard=False), 28, r" parallel\.reshard=True would fit"),
        (Parallel("hsdp", "hsdp", replicas=4), 28, r" parallel\.kind=fsdp parallel\.replicas=1 would fit"),
        (Parallel("hsdp_tp", "hsdp", replicas=8, tp=2), 40, r" parallel\.kind=fsdp parallel\.replicas=1 would fit"),
    ],
)
def test_sharding_more_is_advised_in_words_that_can_be_typed(parallel: Parallel, limit: int, help: str) -> None:
    with pytest.raises(ValueError, match=help):
        plan(config("8b", "fsdp", "bf16", nodes=2, gpus_per_node=8, parallel=parallel), None, limit * GIB)


def test_a_model_that_nothing_makes_fit_is_sent_to_more_gpus() -> None:
    with pytest.raises(ValueError, match="more GPUs with parallel=fsdp"):
        plan(config("405b", "fsdp", "bf16", gpus_per_node=8), named("a100_80g"), 80 * GIB)


def test_too_much_memory_for_a_machine_without_gpus_speaks_of_the_machine_and_its_ranks() -> None:
    point = config("405b", "ddp", gpus_per_node=8)
    with pytest.raises(
        ValueError, match=r"GiB more than the 3\.0 GiB that this machine's memory leaves for each of"
    ) as e:
        plan(point, None, 3 * GIB)
    assert "its 8 ranks; checkpointing" in str(e.value)
    assert "GPU" not in str(e.value)
    assert "device" not in str(e.value)


def test_memory_close_to_the_limit_warns_and_far_from_it_does_not() -> None:
    point = config("125m")
    total = planned(point).memory.total
    assert any("may run out of memory" in line for line in plan(point, None, int(total * 1.05)).warnings)
    assert plan(point, None, total * 2).warnings == []


def test_no_sampled_step_warns() -> None:
    warned = [any("no step is sampled" in line for line in planned(config(steps=n)).warnings) for n in (10, 11)]
    assert warned == [True, False]


def test_an_interval_longer_than_the_point_warns() -> None:
    told = [planned(config("tiny", steps=50, checkpoint=Checkpoint("steps", "steps", n))).warnings for n in (50, 51)]
    warned = [any("come to an end before the first checkpoint" in line for line in lines) for lines in told]
    assert warned == [False, True]


def test_few_measured_steps_warn() -> None:
    assert any("steps=12: 6 measured steps" in line for line in planned(config(steps=12)).warnings)
    assert planned(config(steps=50)).warnings == []


def test_hazards_of_nccl_reach_the_plan() -> None:
    assert any("NCCL_PROTO" in line for line in planned(config(nccl=Nccl("x", {"NCCL_PROTO": "LL128"}))).warnings)


def test_the_time_is_work_over_an_assumed_rate_and_a_start() -> None:
    point = config("1b", "fsdp", "bf16", nodes=2, gpus_per_node=8, steps=100, seq_len=8192)
    made = plan(point, named("h200"), None)
    work = 100 * 16 * 8192 * flops_per_token(point.model, 8192)
    assert made.seconds == pytest.approx(work / (16 * 989e12 * ASSUMED_MFU) + ASSUMED_START)
    assert made.gpu_hours == pytest.approx(made.seconds * 16 / 3600)


def test_recomputation_costs_a_third_more_compute() -> None:
    point = config("1b", "fsdp", "bf16", steps=100)
    once = plan(point, named("h200"), None).seconds
    again = plan(replace(point, activation_checkpointing="full"), named("h200"), None).seconds
    assert again - ASSUMED_START == pytest.approx((once - ASSUMED_START) * 4 / 3)


def test_no_time_is_promised_for_an_unknown_device() -> None:
    made = planned(config())
    assert made.seconds is None
    assert made.gpu_hours is None


def test_planning_imports_no_torch() -> None:
    modules = [f"harness.plan.{path.stem}" for path in (ROOT / "harness" / "plan").glob("*.py")]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
