"""The global gradient norm and clipping, however parameters are spread."""

from collections.abc import Iterable
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from harness.parallel.local import local_part
from harness.parallel.mesh import Mesh


def copies(parameter: Tensor, ranks: int) -> int:
    """How many of `ranks` ranks hold the same part of a parameter."""
    if not isinstance(parameter, DTensor):
        return ranks
    mesh, placements = parameter.device_mesh, parameter.placements
    return ranks // prod(mesh.size(i) for i, where in enumerate(placements) if not isinstance(where, Replicate))


class Gradients:
    """The gradients of the parameters that this rank holds, seen as those of the whole model."""

    def __init__(self, parameters: Iterable[Tensor], mesh: Mesh, device: torch.device) -> None:
        self.parameters = list(parameters)
        ranks = mesh.degrees.world_size // mesh.degrees.pp
        held = [copies(parameter, ranks) for parameter in self.parameters]
        self.whole = mesh.degrees.pp == 1 and all(count == ranks for count in held)
        self.shares = torch.tensor([1.0 / count for count in held], device=device)
        # a CPU adds one number after another, and in fp32 would lose digits where there are millions
        self.sums = torch.float64 if device.type == "cpu" else torch.float32

    def clip(self, most: float) -> Tensor:
        """Scale the gradients down to the norm `most`, in place; returns the norm before that.

        The 2-norm over the whole model, a scalar on the device, the same on every rank: each adds the squares of its
        parts, divided by the number of ranks that hold the same part, and one sum over all ranks then counts every
        element once, over stages too.
        """
        found = [local_part(parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        assert len(found) == len(self.parameters), "a parameter got no gradient"
        squares = torch.stack(torch._foreach_norm(found, dtype=self.sums)).square()
        if self.whole:
            total = squares.sum()
        else:
            total = (squares * self.shares).sum()
            dist.all_reduce(total)
        norm = total.sqrt().float()
        torch._foreach_mul_(found, (most / (norm + 1e-6)).clamp(max=1.0))
        return norm
