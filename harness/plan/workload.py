"""Which of a point's keys its workload has a use for."""

from harness.config import Config

COLLECTIVES = ("nodes", "gpus_per_node", "nccl", "workload")
"""What a benchmark of collectives depends on: ranks, NCCL's environment, operations and sizes."""


def times_collectives(config: Config) -> bool:
    """Whether the point times collectives alone, and trains nothing."""
    return config.workload.kind == "collectives"


def concerns(config: Config, key: str) -> bool:
    """Whether a dotted key has a meaning for what the point's ranks do."""
    group = key.split(".")[0]
    return group in COLLECTIVES if times_collectives(config) else group != "workload"


def titles(config: Config) -> tuple[str, str]:
    """The two names that a point goes by: its model and strategy, or the benchmark and its operation."""
    if times_collectives(config):
        return config.workload.name, config.workload.op
    return config.model.name, config.parallel.name
