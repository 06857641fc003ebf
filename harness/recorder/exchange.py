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

Begun = tuple[Tensor, dist.Work | None]
"""Where the result will be, and what to wait for on a CPU."""


@dataclass
class Pending:
    """A result on its way to the host; `arrive` waits for it."""

    host: Tensor
    arrive: Callable[[], object] | None

    def result(self) -> Tensor:
        """The tensor on the host; waits only if it has not arrived yet."""
        if self.arrive is not None:
            self.arrive()
        return self.host


class Exchange:
    """Reductions beside the training, which never waits for them: on a stream of their own, or by gloo's threads."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        world = dist.get_world_size()
        self.ranks = min(world, GATHERED)
        # every rank makes it, also one that is no member
        self.first_ranks = dist.new_group(list(range(self.ranks))) if self.ranks < world else None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.under_way: list[dist.Work] = []

    def reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType) -> Pending:
        """`values` reduced element by element over all ranks."""

        def begin(own: Tensor) -> Begun:
            return own, dist.all_reduce(own, op, async_op=self.stream is None)

        return self._run(values, begin)

    def smallest(self, values: Tensor, group: str) -> Pending:
        """The element-wise minimum of `values` over the ranks of a group, by its name; a rank's groups in one order."""

        def begin(own: Tensor) -> Begun:
            return own, dist.all_reduce(
                own, dist.ReduceOp.MIN, group=process_group(group), async_op=self.stream is None
            )

        return self._run(values, begin)

    def gather(self, values: Tensor) -> Pending:
        """`values` [n] of the first GATHERED ranks: [ranks, n]; on a rank beyond them nothing, [0, n]."""

        def begin(own: Tensor) -> Begun:
            if dist.get_rank() >= self.ranks:
                return own.new_empty(0, own.numel()), None
            everyone = own.new_empty(self.ranks, own.numel())
            gathering = dist.all_gather(list(everyone), own, group=self.first_ranks, async_op=self.stream is None)
            return everyone, gathering

        return self._run(values, begin)

    def settle(self) -> None:
        """Wait until gloo's threads have nothing of this to do, as before a step whose operations are told apart."""
        while self.under_way:
            self.under_way.pop().wait()

    def _run(self, values: Tensor, begin: Callable[[Tensor], Begun]) -> Pending:
        if self.stream is None:
            host, work = begin(values.clone())
            if work is None:
                return Pending(host, None)
            self.under_way = [*(other for other in self.under_way if not other.is_completed()), work]
            return Pending(host, work.wait)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            if values.device.type == "cpu":
                own = values.pin_memory().to(self.device, non_blocking=True)
            else:
                values.record_stream(self.stream)
                own = values.clone()
            combined, _ = begin(own)
            host = torch.empty(combined.shape, dtype=combined.dtype, pin_memory=True)
            host.copy_(combined, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return Pending(host, arrived.synchronize)
