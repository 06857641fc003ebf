"""How ZeRO-3 is told to gather parameters, and what DeepSpeed then gathers when."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

Weight = tuple[int, int, int]
"""A parameter: its module, its place there with the smallest first, and how many numbers it has."""


def limits(blocks: Sequence[int], head: int) -> tuple[int, int]:
    """Numbers that are gathered ahead, and that may be there at all, given those of each block and of the head.

    While a block computes, the next is gathered; there is room for that, or for the last block beside the head, with
    which backward begins.
    """
    largest = sorted(blocks)[-2:]
    return largest[-1], max(sum(largest), largest[-1] + head)


def prefetched(modules: list[list[Weight]]) -> Iterator[list[Weight]]:
    """What DeepSpeed's PartitionedParameterCoordinator gathers in a microbatch, call by call.

    modules: embedding, blocks, norm and output projection. As each begins, in forward and in backward, DeepSpeed
    walks on along the uses to come and gathers what is not there, until that is a block or as much is there as may
    be; with these limits the walk is always ahead. A parameter that it finds there stays until the use that it has
    come by; any other is freed after its use. So the output projection stays for backward, and so do last blocks
    whose end of forward is less than may be there.
    """
    blocks = [_numbers(module) for module in modules[1:-2]]
    bucket, most = limits(blocks, _numbers(modules[-1]))
    # each pass begins with the model itself
    order = [[], *modules, [], *reversed(modules)]
    uses = deque((weight, turn) for turn, module in enumerate(order) for weight in module)
    there: set[Weight] = set()
    reached: dict[Weight, int] = {}
    for turn, module in enumerate(order):
        room = min(bucket, most - _numbers(there))
        ahead: list[Weight] = []
        while uses and _numbers(ahead) < room:
            weight, reached[weight] = uses.popleft()
            if weight not in there:
                ahead.append(weight)
                there.add(weight)
        if ahead:
            yield ahead
        there -= {weight for weight in module if reached[weight] == turn}


def _numbers(weights: Iterable[Weight]) -> int:
    return sum(length for *_, length in weights)
