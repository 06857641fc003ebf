"""Sums over ranks that share layers, the global gradient norm and clipping, however parameters are spread."""

from collections.abc import Iterable
from math import prod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from harness.parallel.local import local_part
from harness.parallel.mesh import Mesh

CHUNK = 2**16
"""Numbers of which a CPU's sum in fp32 keeps its digits."""


def copies(parameter: Tensor, ranks: int) -> int:
    """How many of `ranks` ranks hold the same part of a parameter."""
    if not isinstance(parameter, DTensor):
        return ranks
    mesh, placements = parameter.device_mesh, parameter.placements
    return ranks // prod(mesh.size(i) for i, where in enumerate(placements) if not isinstance(where, Replicate))


def whole_along(name: str, parameter: Tensor) -> bool:
    """Whether the ranks along a dimension of a DTensor's mesh hold the same of it."""
    if not isinstance(parameter, DTensor):
        return False
    dimensions = parameter.device_mesh.mesh_dim_names or ()
    return any(
        dimension == name and where.is_replicate()
        for dimension, where in zip(dimensions, parameter.placements, strict=True)
    )


def square(gradient: Tensor) -> Tensor:
    """The sum of squares in fp64, for a CPU, which adds one number after another and in fp32 would lose digits."""
    norms = torch._foreach_norm(gradient.flatten().split(CHUNK))
    return torch.stack(norms).double().square().sum()


class Gradients:
    """The gradients of the parameters that this rank holds, seen as those of the whole model."""

    def __init__(self, parameters: Iterable[Tensor], mesh: Mesh, device: torch.device) -> None:
        self.parameters = list(parameters)
        ranks = mesh.degrees.world_size // mesh.degrees.pp
        held = [copies(parameter, ranks) for parameter in self.parameters]
        self.whole = mesh.degrees.pp == 1 and all(count == ranks for count in held)
        self.shares = torch.tensor([1.0 / count for count in held], device=device)
        self.summands = [parameter for parameter in self.parameters if whole_along("tp", parameter)]
        self.tp = mesh.tp

    def sum(self) -> None:
        """Add up, in place, what ranks that share layers have each of the gradient of a parameter that all hold whole.

        They are added in fp32, once a step, when they have been reduced over the data: a rank has its shard of each.
        """
        if self.tp is None:
            return
        group = self.tp.get_group()
        found = [local_part(parameter.grad) for parameter in self.summands if parameter.grad is not None]
        for work in [dist.all_reduce(gradient, group=group, async_op=True) for gradient in found]:
            work.wait()

    def clip(self, most: float) -> Tensor:
        """Scale the gradients down to the norm `most`, in place; returns the norm before that.

        The 2-norm over the whole model, a scalar on the device, the same on every rank: each adds the squares of its
        parts, divided by the number of ranks that hold the same part, and one sum over all ranks then counts every
        element once, over stages too.
        """
        found = [local_part(parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        assert len(found) == len(self.parameters), "a parameter got no gradient"
        if found[0].is_cuda:
            squares = torch.stack(torch._foreach_norm(found)).square()
        else:
            squares = torch.stack([square(gradient) for gradient in found])
        if self.whole:
            total = squares.sum()
        else:
            total = (squares * self.shares).sum()
            dist.all_reduce(total)
        norm = total.sqrt().float()
        torch._foreach_mul_(found, (most / (norm + 1e-6)).clamp(max=1.0))
        return norm
