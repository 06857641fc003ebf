"""A point on fewer hosts than it was planned for: the same global batch, by more accumulation."""

from dataclasses import replace

from harness.config import Config
from harness.plan.batch import accumulation, data_parallel
from harness.plan.degrees import check_degrees
from harness.plan.workload import times_collectives


def on_hosts(config: Config, nodes: int) -> Config:
    """The configuration as so many hosts run it: a step trains on as many sequences as planned."""
    if nodes == config.nodes:
        return config
    sequences = data_parallel(config) * accumulation(config) * config.local_batch
    return replace(config, nodes=nodes, scaling="strong", global_batch=sequences)


def fitting(config: Config, hosts: int) -> int:
    """On how many of so many hosts a point runs: as planned, else on the most that share out its step.

    ValueError, one sentence, where there is no such number of at least launcher.min_nodes.
    """
    least, refused = config.launcher.min_nodes or config.nodes, ""
    for nodes in range(min(config.nodes, hosts), least - 1, -1):
        try:
            smaller = on_hosts(config, nodes)
            check_degrees(smaller)
            accumulation(smaller)
        except ValueError as error:
            refused = refused or f", and nodes={nodes} is not possible: {error}"
        else:
            return nodes
    field = f"launcher.min_nodes={least}" if config.launcher.min_nodes else f"nodes={least}"
    raise ValueError(f"{field}: {hosts} of its hosts are left{refused}")


def check_elastic(config: Config) -> None:
    """Raise ValueError for numbers of hosts that contradict each other."""
    launcher = config.launcher
    if launcher.min_nodes is not None and launcher.min_nodes > config.nodes:
        raise ValueError(f"launcher.min_nodes={launcher.min_nodes}: must be at most nodes={config.nodes}")
    if launcher.min_nodes is not None and launcher.min_nodes < config.nodes and times_collectives(config):
        raise ValueError(
            f"launcher.min_nodes={launcher.min_nodes}: collectives alone are timed on nodes={config.nodes} and no fewer"
        )
    if launcher.max_nodes is not None and launcher.max_nodes < config.nodes:
        raise ValueError(f"launcher.max_nodes={launcher.max_nodes}: must be at least nodes={config.nodes}")
