"""What this rank holds of DTensors, and modules that compute with it, free of DTensor's cost per operation."""

from functools import cache, partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def use_local(module: nn.Module, dimensions: int = 1) -> None:
    """Let the module's forward see its own parameters, DTensors on a mesh of `dimensions`, as local tensors.

    Gradients are those of what the rank did with them: where ranks hold the same of a parameter, summands.
    """
    kind: Any = type(module)
    module.__class__ = using_local(kind, tuple(module._parameters), dimensions)


@cache
def using_local(kind: Any, names: tuple[str, ...], dimensions: int) -> Any:
    """The class with parameters of these names seen as local tensors; one for all, so that they compile as one."""
    seen = {name: property(partial(local, name=name, dimensions=dimensions)) for name in names}
    return type(kind.__name__, (kind,), seen)


def local(module: nn.Module, name: str, dimensions: int) -> Tensor:
    """A parameter as forward sees it."""
    parameter: Any = module._parameters[name]
    # fully_shard looks its own shards up by the same name, outside forward
    seen: Tensor = parameter if len(parameter.placements) > dimensions else parameter.to_local()
    return seen
