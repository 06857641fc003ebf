"""How often a checkpoint is worth what it costs, and what of a point's checkpoints cannot be."""

from math import sqrt

from harness.config import Checkpoint, Config
from harness.plan.strategies import KINDS

MOST_ASYNC_RANKS = 512
"""Ranks that write in the background meet in a gloo group of their own, a full mesh that takes minutes beyond these."""


def best_interval(stall_s: float, failure_s: float) -> float:
    """Seconds of training between two checkpoints that lose the least, where failures come every `failure_s`.

    stall_s: what training waits for each. Young (1974, Communications of the ACM 17(9), "A first order approximation
    to the optimum checkpoint interval"): sqrt(2 · stall · failure), for the stall costs that share of every interval
    and a failure half an interval. Daly (2006, Future Generation Computer Systems 22(3), equation 37) adds the next
    orders, for stalls that are not small beside `failure_s`; from twice that on it is `failure_s`.
    """
    if stall_s >= 2 * failure_s:
        return failure_s
    share = stall_s / (2 * failure_s)
    return sqrt(2 * stall_s * failure_s) * (1 + sqrt(share) / 3 + share / 9) - stall_s


def failure_seconds(checkpoint: Checkpoint, ranks: int) -> float:
    """Seconds between two failures of any of `ranks` GPUs."""
    return checkpoint.failure_hours * 3600 / ranks


def check_checkpoint(config: Config) -> None:
    """Raise ValueError for checkpoints that cannot be, or that are asked for in vain."""
    checkpoint, plain = config.checkpoint, Checkpoint()
    kind, every, mode = checkpoint.kind, checkpoint.every, checkpoint.mode
    for field in ("every", "mode", "keep", "failure_hours"):
        value = getattr(checkpoint, field)
        if kind == "none" and value != getattr(plain, field):
            raise ValueError(
                f"checkpoint.{field}={value}: no checkpoint is written; say checkpoint=steps, seconds or auto"
            )
    if kind in ("steps", "seconds"):
        if every is None:
            raise ValueError(f"checkpoint.every=null: checkpoint={kind} needs a number of {kind}, above 0")
        if kind == "steps" and every != int(every):
            raise ValueError(f"checkpoint.every={every}: must be a whole number of steps")
    elif every is not None:
        raise ValueError(f"checkpoint.every={every}: checkpoint=auto finds the interval by itself; leave it out")
    if kind != "auto" and checkpoint.failure_hours != plain.failure_hours:
        raise ValueError(f"checkpoint.failure_hours={checkpoint.failure_hours}: is of checkpoint=auto alone")
    ranks = config.nodes * config.gpus_per_node
    if mode == "async" and not KINDS[config.parallel.kind].writes_behind:
        raise ValueError(
            f"checkpoint.mode=async: DeepSpeed writes parallel.kind={config.parallel.kind} while training waits; "
            "say checkpoint.mode=sync"
        )
    if mode == "async" and ranks > MOST_ASYNC_RANKS:
        raise ValueError(
            f"checkpoint.mode=async: {ranks} ranks would need minutes to connect for it; up to {MOST_ASYNC_RANKS} can, "
            "beyond that say checkpoint.mode=sync"
        )
