"""How many collective operations a step has."""

from harness.config import Config
from harness.plan.batch import accumulation


def calls_per_step(config: Config) -> int:
    """An upper bound of the collectives that one rank issues in a step.

    fsdp gathers the embedding, every block and the output in forward and again in backward and reduce-scatters each,
    once a microbatch; ddp has at most one bucket for each of a block's nine parameters and the three others. A
    handful of small ones come on top.
    """
    layers = config.model.layers
    return max(3 * (layers + 2) * accumulation(config), 9 * layers + 3) + 8
