"""Bandwidth of a collective, as nccl-tests defines it.

Factors: https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md. Sizes are bytes, times seconds,
rates bytes per second. `n` is the number of ranks of the collective's own group.
"""

from collections.abc import Callable

from harness.fields import nearest

# What one rank must move over its links, as a share of the size, is what makes busbw independent of n.
FACTORS: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
    "reduce": lambda n: 1.0,
    "send_recv": lambda n: 1.0,
}


def factor(op: str, n: int) -> float:
    """The ratio of busbw to algbw for an operation in a group of n ranks.

    ValueError for an operation that is not in FACTORS, or for n below 1.
    """
    if op not in FACTORS:
        raise ValueError(f"op={op}: choose one of {', '.join(FACTORS)}{nearest(op, list(FACTORS))}")
    if n < 1:
        raise ValueError(f"n={n}: a group has at least one rank")
    return FACTORS[op](n)


def algbw(size: int, seconds: float) -> float:
    """Size over time, bytes per second.

    size: the buffer for all_reduce, broadcast, reduce and send_recv; the full tensor for all_gather and
    reduce_scatter; what one rank sends in all for all_to_all, the same to each.
    ValueError where the time is not above zero.
    """
    if seconds <= 0:
        raise ValueError(f"seconds={seconds}: a duration must be above 0")
    return size / seconds


def busbw(op: str, size: int, seconds: float, n: int) -> float | None:
    """algbw times the operation's factor, bytes per second.

    None for a group of one: nothing crosses a link, so there is no bus bandwidth to report, not one of zero.
    """
    ratio = factor(op, n)
    return None if n == 1 else algbw(size, seconds) * ratio
