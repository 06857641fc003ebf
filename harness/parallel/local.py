"""What this rank holds of DTensors, and modules that compute with it, free of DTensor's cost per operation."""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from harness.parallel.collectives import Group, all_reduce


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def use_local(module: nn.Module, group: Group, dimensions: int = 1) -> None:
    """Let the module's forward see its own parameters, DTensors on a mesh of `dimensions`, as local tensors.

    Where the ranks of `group` all hold the whole of a parameter, its gradient is the sum of theirs.
    """
    kind: Any = type(module)
    module.__class__ = using_local(kind, tuple(module._parameters), group, dimensions)


@cache
def using_local(kind: Any, names: tuple[str, ...], group: Group, dimensions: int) -> Any:
    """The class with parameters of these names seen as local tensors; one for all, so that they compile as one."""
    seen = {name: property(partial(local, name=name, group=group, dimensions=dimensions)) for name in names}
    return type(kind.__name__, (kind,), seen)


def local(module: nn.Module, name: str, group: Group, dimensions: int) -> Tensor:
    """A parameter as forward sees it."""
    parameter: Any = module._parameters[name]
    if len(parameter.placements) > dimensions:
        # fully_shard looks its own shards up by the same name, outside forward
        seen: Tensor = parameter
    else:
        seen = parameter.to_local()
        if all(held.is_replicate() for held in parameter.placements):
            seen = SumGradient.apply(seen, group)
    return seen


class SumGradient(torch.autograd.Function):
    """What all ranks of a group hold; its gradient is the sum of theirs, taken in fp32."""

    @staticmethod
    def forward(ctx: Any, held: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return held.view_as(held)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return all_reduce(gradient.float(), ctx.group).to(gradient.dtype), None
