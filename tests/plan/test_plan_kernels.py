from dataclasses import replace
from typing import Any

import pytest
from plan_configs import config

from harness.config import Config, Model, Parallel, Precision
from harness.plan.hardware import named
from harness.plan.kernels import check_kernels

FLOAT8 = Precision("float8", "bf16", float8=True)
CPU, AMPERE, HOPPER = None, named("a100_80g"), named("h100_sxm")


def point(**changes: Any) -> Config:
    return config("1b", "fsdp", "bf16", **changes)


def wide(head_dim: int) -> Model:
    return replace(point().model, head_dim=head_dim)


@pytest.mark.parametrize(
    ("changes", "device", "message"),
    [
        ({"attention": "cudnn"}, CPU, "attention=cudnn: must run on a GPU"),
        ({"attention": "flex"}, CPU, "attention=flex: must run on a GPU"),
        ({"attention": "cudnn", "precision": Precision("fp32", "fp32")}, HOPPER, "attention=cudnn: .*precision=bf16"),
        ({"attention": "flash", "precision": Precision("fp32", "fp32")}, HOPPER, "attention=flash: .*precision=bf16"),
        ({"attention": "flash", "model": wide(320)}, HOPPER, "attention=flash: takes heads of at most 256, not of 320"),
        (
            {"attention": "cudnn", "model": wide(20)},
            HOPPER,
            "attention=cudnn: takes heads of a multiple of 8, not of 20",
        ),
        ({"attention": "math", "parallel": Parallel("x", "fsdp", cp=2)}, CPU, "attention=math: .*context=all_gather"),
        ({"attention": "flex", "parallel": Parallel("x", "fsdp", cp=2)}, HOPPER, "attention=flex: .*context=ulysses"),
        ({"precision": FLOAT8}, CPU, "precision.float8=True: must run on a GPU"),
        ({"precision": FLOAT8}, AMPERE, "precision.float8=True: .*float8 products.*A100"),
        ({"precision": replace(FLOAT8, compute="fp32")}, HOPPER, "precision.compute=fp32: must be bf16"),
        ({"precision": FLOAT8, "seq_len": 2050}, HOPPER, "seq_len=2050: .*multiple of 16"),
        ({"precision": FLOAT8, "parallel": Parallel("x", "fsdp", tp=64)}, HOPPER, "model.name=1b: .*8 x 2048"),
    ],
    ids=str,
)
def test_what_the_ranks_cannot_run_is_refused(changes: dict[str, Any], device: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_kernels(point(**changes), device, torchao=True)


def test_float8_needs_its_package() -> None:
    with pytest.raises(ValueError, match="torchao; install the extra float8"):
        check_kernels(point(precision=FLOAT8), HOPPER, torchao=False)
    check_kernels(point(precision=FLOAT8), HOPPER, torchao=True)


@pytest.mark.parametrize("attention", ["auto", "flash", "math"])
def test_attention_that_a_cpu_has_runs_there_in_fp32(attention: str) -> None:
    check_kernels(config("1b", "fsdp", attention=attention), CPU, torchao=False)


@pytest.mark.parametrize("device", [CPU, HOPPER], ids=["cpu", "gpu"])
def test_experts_need_sides_of_eight_in_bf16(device: Any) -> None:
    odd = config("tiny_moe", "fsdp", "bf16", parallel=Parallel("x", "fsdp", tp=2))
    odd = replace(odd, model=replace(odd.model, expert_ffn_dim=200))
    with pytest.raises(ValueError, match=r"model.expert_ffn_dim=200: a rank's 100 must be a multiple of 8"):
        check_kernels(odd, device, torchao=False)
    check_kernels(replace(odd, precision=Precision("fp32", "fp32")), device, torchao=False)
