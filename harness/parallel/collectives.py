"""Collectives that a compiler follows and that run beside compute: started, and waited for where they are needed."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

ops = torch.ops._c10d_functional


class Group(NamedTuple):
    """A process group by its name, its size, and this process's rank in it: constants to a compiler."""

    name: str
    size: int
    rank: int

    @classmethod
    def along(cls, mesh: DeviceMesh) -> Self:
        """The group of a mesh of one dimension."""
        return cls(mesh.get_group().group_name, mesh.size(), mesh.get_local_rank())


def start_all_gather(x: Tensor, group: Group) -> Tensor:
    """The ranks' tensors after one another along the first dimension; to be waited for."""
    return ops.all_gather_into_tensor(x.contiguous(), group.size, group.name)


def start_reduce_scatter(x: Tensor, group: Group) -> Tensor:
    """This rank's part, along the first dimension, of the sum over ranks; to be waited for."""
    return ops.reduce_scatter_tensor(x.contiguous(), "sum", group.size, group.name)


def wait(x: Tensor) -> Tensor:
    """The result of a collective that was started."""
    return ops.wait_tensor(x)


def all_reduce(x: Tensor, group: Group) -> Tensor:
    """The sum over ranks, as a constant to autograd."""
    return wait(ops.all_reduce(x.detach(), "sum", group.name))


def all_to_all(rows: Tensor, sent: list[int], received: list[int], group: Group) -> Tensor:
    """Rows [n, …]: the first `sent` to the first rank and so on, as many received from each."""
    return wait(ops.all_to_all_single(rows.contiguous(), received, sent, group.name))


class AllToAll(torch.autograd.Function):
    """The same; gradients go the way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: Group) -> Tensor:
        ctx.way_back = received, sent, group
        return all_to_all(rows, sent, received, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return all_to_all(gradient, *ctx.way_back), None, None, None
