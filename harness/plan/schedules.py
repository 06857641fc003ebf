"""In what order a pipeline rank runs its microbatches, as torch.distributed.pipelining's schedules do."""

from collections import Counter
from collections.abc import Iterator

ROUNDED = ("interleaved", "zero_bubble")
"""Schedules of several stages a rank, which take microbatches in rounds."""


def rounds(microbatches: int, ranks: int) -> int:
    """In how many rounds the ROUNDED schedules take the microbatches; their number must be a multiple of it."""
    return max(1, microbatches // ranks)


def passes(schedule: str, rank: int, ranks: int, virtual_stages: int, microbatches: int) -> Iterator[tuple[str, int]]:
    """The passes of one of `ranks` pipeline ranks, in order: what it runs, and which of its stages, from 0.

    forward; backward, of the inputs and the weights or with zero_bubble of the inputs; weights, zero_bubble's rest.
    Sources: GPipe, arXiv:1811.06965; 1F1B and interleaved, arXiv:2104.04473; zero bubble (ZB1P), arXiv:2401.10241.
    """
    if schedule in ROUNDED:
        yield from _rounded(schedule, rank, ranks, virtual_stages, microbatches)
        return
    warmup = microbatches if schedule == "gpipe" else min(microbatches, ranks - rank)
    yield from [("forward", 0)] * warmup
    yield from [("backward", 0), ("forward", 0)] * (microbatches - warmup)
    yield from [("backward", 0)] * warmup


def in_flight(schedule: str, rank: int, ranks: int, virtual_stages: int, microbatches: int) -> list[int]:
    """For each stage of a rank, how many microbatches it holds where the rank holds the most in all."""
    held, most = Counter[int](), Counter[int]()
    last = "weights" if schedule == "zero_bubble" else "backward"
    for what, stage in passes(schedule, rank, ranks, virtual_stages, microbatches):
        if what == "forward":
            held[stage] += 1
            most = held.copy() if held.total() > most.total() else most
        elif what == last:
            held[stage] -= 1
    return [most[stage] for stage in range(virtual_stages)]


def _rounded(schedule: str, rank: int, ranks: int, virtual_stages: int, microbatches: int) -> Iterator[tuple[str, int]]:
    zero_bubble = schedule == "zero_bubble"
    a_round = microbatches // rounds(microbatches, ranks)
    forwards = virtual_stages * microbatches
    ahead = (1 if zero_bubble else 2) * (ranks - 1 - rank)
    warmup = min((virtual_stages - 1) * a_round + ahead, forwards)
    waiting: list[int] = []
    for number in range(warmup + forwards):
        if number < forwards:
            yield "forward", number // a_round % virtual_stages
        if number >= warmup:
            stage = virtual_stages - 1 - (number - warmup) // a_round % virtual_stages
            yield "backward", stage
            waiting.append(stage)
            if zero_bubble and number - warmup >= rank:
                yield "weights", waiting.pop(0)
    if zero_bubble:
        yield from (("weights", stage) for stage in waiting)
