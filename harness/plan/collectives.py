"""What one rank moves in a step, by communication group and operation, and how many calls that is."""

from collections.abc import Iterator
from dataclasses import dataclass

from harness.config import Config
from harness.plan.moved_activations import moved_activations
from harness.plan.moved_parameters import Moved, moved_parameters

SMALL_BYTES = 64 * 1024
"""Operations under this size carry control values, and are kept apart; uneven ones never do."""

BUCKET = 25 * 2**20
"""Bytes of gradients that ddp reduces at a time, at least, after a first bucket (DistributedDataParallel)."""

CONTROL_CALLS = 16
"""More than a step needs for norms, losses and balance."""


@dataclass(frozen=True)
class Traffic:
    """What one rank moves in a step over one group by one operation.

    group: the label that harness.parallel.mesh gives it; bytes: by nccl-tests' convention (harness.plan.busbw),
    summed over `count` calls.
    """

    group: str
    op: str
    bytes: int
    count: int


def traffic(config: Config) -> list[Traffic]:
    """What the first rank moves in one optimizer step, without even calls of less than SMALL_BYTES.

    In a pipeline that is the first stage's; a send counts where it is sent. Tokens that travel to experts are those
    of an even load.
    """
    found: dict[tuple[str, str], Traffic] = {}
    for moved in _calls(config, 0):
        if moved.ranks > 1 and moved.count and (moved.uneven or moved.bytes >= SMALL_BYTES):
            key = (moved.group, moved.op)
            before = found.get(key, Traffic(*key, 0, 0))
            found[key] = Traffic(*key, before.bytes + moved.bytes * moved.count, before.count + moved.count)
    return sorted(found.values(), key=lambda told: (told.group, told.op))


def calls_per_step(config: Config) -> int:
    """An upper bound of the calls that any rank issues in a step, small ones included, so that a ring holds them."""
    return CONTROL_CALLS + max(
        # what is sent is also received, and a batch of both is one more
        sum(moved.count * 3 if moved.op == "send_recv" else moved.count + moved.bytes // BUCKET for moved in calls)
        for calls in (_calls(config, stage) for stage in range(config.parallel.pp))
    )


def _calls(config: Config, stage: int) -> Iterator[Moved]:
    yield from moved_parameters(config, stage)
    yield from moved_activations(config, stage)
