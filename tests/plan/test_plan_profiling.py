"""Which steps and ranks are profiled, and what a person is told of it."""

import pytest
from plan_configs import config

from harness.config import Profile
from harness.plan.point import plan
from harness.plan.profiling import NCCL_KERNELS, check_profile, profiled_ranks, profiled_steps


def profile(kind: str = "torch", **chosen: object) -> Profile:
    return Profile(kind, kind, **chosen)  # type: ignore[arg-type]


def test_without_a_profiler_no_step_and_no_rank_is_profiled() -> None:
    plain = config()
    assert (list(profiled_steps(plain)), profiled_ranks(plain), check_profile(plain)) == ([], (), [])


@pytest.mark.parametrize(
    ("asked", "ranks"),
    [("0", (0,)), (3, (3,)), ("1-3", (1, 2, 3)), ([0, "2-3"], (0, 2, 3)), ([3, 3], (3,)), ("all", (0, 1, 2, 3))],
)
def test_ranks_are_typed_as_numbers_ranges_and_lists(asked: object, ranks: tuple[int, ...]) -> None:
    assert profiled_ranks(config(gpus_per_node=4, profile=profile(ranks=asked))) == ranks


@pytest.mark.parametrize(
    "asked", ["4", "0-4", "3-1", "-1", "0-", "", "0,1", "all ranks", ["all", 0], [], "9" * 30, None]
)
def test_other_words_are_refused_with_the_field(asked: object) -> None:
    with pytest.raises(ValueError, match=r"profile\.ranks="):
        profiled_ranks(config(gpus_per_node=4, profile=profile(ranks=asked)))


def test_by_default_no_sample_is_lost_and_nothing_is_warned_of() -> None:
    asked = config(profile=profile())
    assert list(profiled_steps(asked)) == [12, 13]
    assert check_profile(asked) == []


def test_lost_samples_are_told() -> None:
    [warning] = check_profile(config(profile=profile(first_step=10, steps=3)))
    assert warning == "profile.first_step=10: no collectives are timed at 11, too near to what it profiles"


def test_a_tool_around_a_rank_is_no_measurement() -> None:
    [warning] = check_profile(config(gpus_per_node=4, profile=profile("nsys", ranks=[0, 2])))
    assert warning.startswith("profile=nsys: the tool is around ranks 0, 2 from their start to their end")


def test_profiled_steps_are_none_of_the_measured_ones() -> None:
    # 12 steps after the warm-up, 2 of them sampled
    assert "10 measured" not in " ".join(plan(config(steps=17), None, None).warnings)
    [warning] = plan(config(steps=17, profile=profile()), None, None).warnings
    assert warning.startswith("steps=17: 9 measured steps are left")


@pytest.mark.parametrize(
    "kernels", [".", "", "AllReduce", "Kernel", "nccl", "^ncclDev", "(?i)NCCL", "gemm|RING", "u64", "NVLS", "Generic"]
)
def test_ncu_is_never_given_a_kernel_of_nccl(kernels: str) -> None:
    with pytest.raises(ValueError, match="must match none of NCCL's"):
        check_profile(config(profile=profile("ncu", kernels=kernels)))


def test_what_ncu_looks_at_by_default_are_products_and_attention() -> None:
    import re

    pattern = re.compile(Profile().kernels)
    for kernel in (
        "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT",
        "void cutlass::Kernel2<cutlass_80_simt_sgemm_128x64_8x5_nn_align1>(T1::Params)",
        "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4>>(Flash_fwd_params)",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3",
        "triton_red_fused_add_mul_0",
    ):
        assert pattern.search(kernel), kernel
    assert not any(pattern.search(kernel) for kernel in NCCL_KERNELS)
