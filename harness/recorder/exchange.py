"""Small numbers brought together over ranks while the device goes on with its work."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from harness.recorder.groups import process_group

RANK_BITS = 20
"""Bits below a number of nanoseconds that hold its rank, so that one maximum or minimum gives both."""

GATHERED = 512
"""Ranks, from the first on, whose rows are gathered: full meshes over thousands take minutes to make."""


@dataclass
class Pending:
    """A result on its way to the host."""

    host: Tensor
    arrived: torch.cuda.Event | None

    def result(self) -> Tensor:
        """The tensor on the host; waits only if it has not arrived yet."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.host


class Exchange:
    """Reductions on a stream of their own: the training stream never waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        world = dist.get_world_size()
        self.ranks = min(world, GATHERED)
        # every rank makes it, also one that is no member
        self.first_ranks = dist.new_group(list(range(self.ranks))) if self.ranks < world else None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType) -> Pending:
        """`values` reduced element by element over all ranks."""

        def work(own: Tensor) -> Tensor:
            dist.all_reduce(own, op)
            return own

        return self._run(values, work)

    def smallest(self, values: Tensor, group: str) -> Pending:
        """The element-wise minimum of `values` over the ranks of a group, by its name; a rank's groups in one order."""

        def work(own: Tensor) -> Tensor:
            dist.all_reduce(own, dist.ReduceOp.MIN, group=process_group(group))
            return own

        return self._run(values, work)

    def gather(self, values: Tensor) -> Pending:
        """`values` [n] of the first GATHERED ranks: [ranks, n]; on a rank beyond them nothing, [0, n]."""

        def work(own: Tensor) -> Tensor:
            if dist.get_rank() >= self.ranks:
                return own.new_empty(0, own.numel())
            everyone = own.new_empty(self.ranks, own.numel())
            dist.all_gather(list(everyone), own, group=self.first_ranks)
            return everyone

        return self._run(values, work)

    def _run(self, values: Tensor, work: Callable[[Tensor], Tensor]) -> Pending:
        if self.stream is None:
            return Pending(work(values.clone()), None)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            if values.device.type == "cpu":
                own = values.pin_memory().to(self.device, non_blocking=True)
            else:
                values.record_stream(self.stream)
                own = values.clone()
            combined = work(own)
            host = torch.empty(combined.shape, dtype=combined.dtype, pin_memory=True)
            host.copy_(combined, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return Pending(host, arrived)
