"""Which steps a fault that was asked for falls on, and on which rank."""

import random

from harness.config import Config, Faults

DRAWN = ("kill", "hang", "slow", "nan", "oom", "disk_full")
"""Faults of a rank; the others are of what is around the point."""


def fault_rank(config: Config) -> int:
    """The rank on which the fault happens."""
    last = config.nodes * config.gpus_per_node - 1
    return last if config.faults.rank is None else config.faults.rank


def fault_step(config: Config) -> int:
    """The step that was named, or the first measured one."""
    return config.warmup + 1 if config.faults.step is None else config.faults.step


def drawn(config: Config, attempt: int, step: int) -> bool:
    """Whether a fault with a rate falls on a step: each does with 1 / rate, by seed and attempt."""
    assert config.faults.rate is not None
    return random.Random(f"{config.seed}/{attempt}/{step}").random() < 1 / config.faults.rate


def check_faults(config: Config) -> list[str]:
    """Warnings, one sentence each. ValueError for a fault that can't happen, or would be asked for in vain."""
    faults, world = config.faults, config.nodes * config.gpus_per_node
    plain = Faults()
    asked = [field for field in ("rank", "step", "rate", "seconds") if getattr(faults, field) != getattr(plain, field)]
    if faults.kind == "none":
        if asked:
            raise ValueError(
                f"faults.{asked[0]}={getattr(faults, asked[0])}: no fault is asked for; say faults=kill, for example"
            )
        return []
    if faults.kind == "wandb_down":
        if asked:
            raise ValueError(
                f"faults.{asked[0]}={getattr(faults, asked[0])}: faults=wandb_down is of the whole point; leave it out"
            )
        if config.record.wandb not in ("online", "auto"):
            raise ValueError(
                f"faults=wandb_down: record.wandb={config.record.wandb} asks no server; say record.wandb=online"
            )
        return ["faults=wandb_down: W&B's server is unreachable to this point's mirror"]
    if faults.kind != "slow" and "seconds" in asked:
        raise ValueError(f"faults.seconds={faults.seconds}: is of faults=slow; faults={faults.kind} takes no time")
    if faults.step is not None and faults.rate is not None:
        raise ValueError(f"faults.rate={faults.rate}: faults.step={faults.step} is there too; give one of the two")
    if fault_rank(config) >= world:
        there = "its one rank is 0" if world == 1 else f"its {world} ranks are 0 to {world - 1}"
        raise ValueError(f"faults.rank={faults.rank}: must be a rank of this point; {there}")
    if faults.rate is None and fault_step(config) > config.steps:
        raise ValueError(f"faults.step={faults.step}: must be at most steps={config.steps}")
    when = f"at step {fault_step(config)}" if faults.rate is None else f"every {faults.rate:g} steps on average"
    return [f"faults={faults.kind}: on rank {fault_rank(config)} {when}; figures are of a point with faults"]
