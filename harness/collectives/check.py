"""Whether a collective moved every element to where it belongs.

Buffers are filled with whole numbers that tell rank and position, small enough that fp32 holds every sum over ranks
exactly: the result is compared element by element, without a tolerance.
"""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from harness.collectives.operations import Call

# A prime, so that what is shifted by a power of two or by a rank's part is seen.
POSITIONS = 61
# Ranks beyond so many repeat their share of the value; their positions still tell them apart where nothing is summed.
RANKS = 16
MOST_RANKS = 2**24 // (POSITIONS * RANKS)
"""Up to so many ranks a sum over all of them is exact in fp32."""

CHUNK = 2**22
"""Elements that are made or compared at a time."""

SPOILT = -1.0
REDUCING = ("all_reduce", "reduce_scatter")


class WrongResult(ArithmeticError):
    """A collective gave a wrong element."""


def wrong_elements(call: Call, run: Callable[[], None]) -> list[int]:
    """How many elements of each rank's result are wrong after one `run` of the call on fresh buffers."""
    fill(call)
    run()
    found = torch.zeros((), dtype=torch.int64, device=call.got.device)
    for index, part in chunks(call.got):
        found += (part != expected(call, index)).sum()
    counts = [torch.zeros_like(found) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, found)
    return [int(count) for count in torch.stack(counts).tolist()]


def refuse(wrong: list[int], what: str, elements: int) -> None:
    """Raise WrongResult on the ranks that have wrong elements; the others wait for the end that this brings."""
    own = wrong[dist.get_rank()]
    if own:
        raise WrongResult(f"{what}: {own:,} of {elements:,} elements are wrong here, {sum(wrong):,} on all ranks")
    if any(wrong):
        dist.barrier()


def fill(call: Call) -> None:
    """Put this rank's numbers into what it gives, and spoil what it is to get."""
    if not call.in_place:
        call.got.fill_(SPOILT)
    rank = dist.get_rank()
    first = 0 if call.op in REDUCING else rank * len(call.given)
    for index, part in chunks(call.given):
        part.copy_(number(first + index, rank))


def chunks(tensor: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A tensor's parts, each with the positions of its elements."""
    for first in range(0, len(tensor), CHUNK):
        part = tensor[first : first + CHUNK]
        yield torch.arange(first, first + len(part), device=tensor.device), part


def number(position: Tensor, rank: Tensor | int) -> Tensor:
    """What a rank gives at a position: counted from its buffer's start where ranks are summed, else over all ranks.

    Never zero, so that what is missing in a sum is seen.
    """
    return 1 + position % POSITIONS + POSITIONS * (rank % RANKS)


def expected(call: Call, index: Tensor) -> Tensor:
    """What this rank has to get at these positions of its result."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    given, part = len(call.given), len(call.got) // ranks
    assert ranks <= MOST_RANKS
    if call.op in REDUCING:
        position = index + (rank * len(call.got) if call.op == "reduce_scatter" else 0)
        return ranks * (1 + position % POSITIONS) + POSITIONS * sum(each % RANKS for each in range(ranks))
    if call.op == "all_gather":
        return number(index, index // given)
    if call.op == "all_to_all":
        source = index // part
        return number(source * given + rank * part + index % part, source)
    sender = 0 if call.op == "broadcast" else (rank - 1) % ranks
    return number(sender * given + index, sender)
