"""The collectives that training uses, each as a call on buffers that lie ready.

Sizes are S by nccl-tests' convention (harness/plan/busbw.py), of fp32 numbers, nccl-tests' own default type.
PyTorch's all-reduce and broadcast work in place; the others read one buffer and write another.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

WIDTH = 4
"""Bytes of an fp32 number."""


@dataclass(frozen=True)
class Call:
    """One operation of one size on this rank: `given` goes in, `got` comes out, the same tensor where in place."""

    op: str
    size: int
    given: Tensor
    got: Tensor
    run: Callable[[], None]

    @property
    def in_place(self) -> bool:
        return self.given is self.got


class Buffers:
    """Two buffers that all operations of all sizes share: `bytes` in the first, the rest in the second."""

    def __init__(self, first: int, second: int, device: torch.device) -> None:
        self.first = torch.empty(first // WIDTH, dtype=torch.float32, device=device)
        self.second = torch.empty(second // WIDTH, dtype=torch.float32, device=device)

    def call(self, op: str, size: int) -> Call:
        """The operation over all ranks with S = `size` bytes, a multiple of what each rank has an equal part of."""
        return CALLS[op](self, op, size)


def _all_reduce(buffers: Buffers, op: str, size: int) -> Call:
    whole = buffers.first[: size // WIDTH]
    return Call(op, size, whole, whole, lambda: _done(dist.all_reduce(whole)))


def _all_gather(buffers: Buffers, op: str, size: int) -> Call:
    whole = buffers.first[: size // WIDTH]
    part = buffers.second[: len(whole) // dist.get_world_size()]
    return Call(op, size, part, whole, lambda: _done(dist.all_gather_into_tensor(whole, part)))


def _reduce_scatter(buffers: Buffers, op: str, size: int) -> Call:
    whole = buffers.first[: size // WIDTH]
    part = buffers.second[: len(whole) // dist.get_world_size()]
    return Call(op, size, whole, part, lambda: _done(dist.reduce_scatter_tensor(part, whole)))


def _all_to_all(buffers: Buffers, op: str, size: int) -> Call:
    given, got = buffers.first[: size // WIDTH], buffers.second[: size // WIDTH]
    return Call(op, size, given, got, lambda: _done(dist.all_to_all_single(got, given)))


def _broadcast(buffers: Buffers, op: str, size: int) -> Call:
    """From the first rank."""
    whole = buffers.first[: size // WIDTH]
    return Call(op, size, whole, whole, lambda: _done(dist.broadcast(whole, src=0)))


def _send_recv(buffers: Buffers, op: str, size: int) -> Call:
    """To the next rank, and from the one before, at once."""
    given, got = buffers.first[: size // WIDTH], buffers.second[: size // WIDTH]
    rank, ranks = dist.get_rank(), dist.get_world_size()

    def run() -> None:
        onward = dist.P2POp(dist.isend, given, (rank + 1) % ranks)
        for work in dist.batch_isend_irecv([onward, dist.P2POp(dist.irecv, got, (rank - 1) % ranks)]):
            work.wait()

    return Call(op, size, given, got, run)


def _done(work: dist.Work | None) -> None:
    assert work is None, "the call was asynchronous"


CALLS: dict[str, Callable[[Buffers, str, int], Call]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "broadcast": _broadcast,
    "send_recv": _send_recv,
}
