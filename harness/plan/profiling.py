"""Which steps of which ranks a profiler looks at."""

import re
from collections.abc import Iterator
from typing import Any

from harness.config import Config, Profile
from harness.plan.window import SAMPLE_OFFSET, not_sampled

TOOLS = ("nsys", "ncu")
"""Profilers that are programs of their own, around a rank's process."""

NCCL_KERNELS = (
    "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)",
    "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)",
    "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)",
    "ncclDevKernel_Broadcast_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)",
    "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<(unsigned long)4096>)",
    "ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<(unsigned long)4096>)",
    "ncclSymkDevKernel_AllReduce_AGxLL_R_sum_f32(ncclSymkDevWorkArgs4K)",
    # every other word of such a name
    "ncclDevKernel_Reduce_AllToAll_Gather_Prod_MinMax_PreMulSum_SumPostDiv_i8_u8_i32_u32_i64_u64_f16_f64_f8e4m3_f8e5m2_"
    "TREE_COLLNET_DIRECT_CHAIN_NVLS_TREE_PAT_LL128_SIMPLE(ncclDevKernelArgs4K)",
)
"""NCCL's kernels as ncu names them."""


def profiled_steps(config: Config) -> range:
    """The steps that are profiled; none without a profiler."""
    profile = config.profile
    if profile.kind == "none":
        return range(0)
    # late enough that the first sampled step before it tells of an ordinary one
    first = config.warmup + SAMPLE_OFFSET + 1 if profile.first_step is None else profile.first_step
    return range(first, first + profile.steps)


def profiled_ranks(config: Config) -> tuple[int, ...]:
    """The ranks that are profiled; none without a profiler.

    ValueError for words that name no ranks, and for ranks that the point does not have.
    """
    if config.profile.kind == "none":
        return ()
    asked, world = config.profile.ranks, config.nodes * config.gpus_per_node
    words = asked if isinstance(asked, list) else [asked]
    if words == ["all"]:
        return tuple(range(world))
    ranks = sorted({rank for word in words for rank in ranks_of(word, asked)})
    if not ranks or ranks[-1] >= world:
        there = "its one rank is 0" if world == 1 else f"its {world} ranks are 0 to {world - 1}"
        raise ValueError(f"profile.ranks={asked}: must name ranks of this point; {there}")
    return tuple(ranks)


def ranks_of(word: Any, asked: Any) -> Iterator[int]:
    """The ranks that `3` or `0-3` names, a part of what was asked for."""
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", str(word))
    if not found:
        raise ValueError(f"profile.ranks={asked}: must be a rank, a range as 0-3, a list as [0,8-11], or all")
    first, last = found.groups()
    if last and int(last) < int(first):
        raise ValueError(f"profile.ranks={asked}: a range goes upward; say {last}-{first}")
    # a range that ends anywhere is short enough to look at
    return iter(range(int(first), min(int(last or first), 2**20) + 1))


def check_profile(config: Config) -> list[str]:
    """Warnings, one sentence each. ValueError for what cannot be profiled, or would be asked for in vain."""
    profile, steps = config.profile, profiled_steps(config)
    _check_asked_for(profile)
    if profile.kind == "none":
        return []
    if steps[0] < 2 or steps[-1] > config.steps:
        begins = f"{profile.first_step}" if profile.first_step is not None else "null"
        raise ValueError(
            f"profile.first_step={begins}: profile.steps={profile.steps} of them are steps {steps[0]} to {steps[-1]}, "
            f"which must lie from 2 to steps={config.steps}; the first one compiles and warms up"
        )
    profiled_ranks(config)
    warnings = []
    if lost := not_sampled(config.steps, config.warmup, config.record.sample_every, steps):
        told = ", ".join(map(str, lost))
        warnings.append(
            f"profile.first_step={steps[0]}: no collectives are timed at {told}, too near to what it profiles"
        )
    if profile.kind in TOOLS:
        warnings.append(
            f"profile={profile.kind}: the tool is around ranks {_told(config)} from their start to their end, and may "
            "slow down other steps too; take figures from a run without it"
        )
    return warnings


def _check_asked_for(profile: Profile) -> None:
    plain = Profile()
    for field in ("first_step", "steps", "ranks", "kernels", "launches"):
        if (value := getattr(profile, field)) == getattr(plain, field):
            continue
        if profile.kind == "none":
            raise ValueError(f"profile.{field}={value}: nothing is profiled; say profile=torch, nsys or ncu")
        if profile.kind != "ncu" and field in ("kernels", "launches"):
            raise ValueError(f"profile.{field}={value}: is of profile=ncu; profile={profile.kind} takes all kernels")
    try:
        pattern = re.compile(profile.kernels)
    except re.error as error:
        raise ValueError(f"profile.kernels={profile.kernels}: must be a regular expression ({error})") from error
    if any(pattern.search(name) for name in NCCL_KERNELS):
        raise ValueError(
            f"profile.kernels={profile.kernels}: must match none of NCCL's, such as {NCCL_KERNELS[0].split('(')[0]}; "
            "ncu runs a kernel again and again, and a collective that runs again waits forever for the other ranks"
        )


def _told(config: Config) -> str:
    asked = config.profile.ranks
    return ", ".join(map(str, asked)) if isinstance(asked, list) else str(asked)
