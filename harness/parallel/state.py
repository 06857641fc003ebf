"""The tensors that training goes on from, by names that no strategy changes, and how ranks share their writing out."""

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from harness.parallel.mesh import Mesh

State = dict[str, Tensor]
"""Live tensors by name: what is copied into them is what the strategy trains on with."""


def state_of(parts: Sequence[nn.Module], optimizer: torch.optim.Optimizer) -> State:
    """Parameters, buffers that are kept, and the optimizer's moments and step counts of this rank's parts."""
    found: State = {}
    for part in parts:
        for name, buffer in kept_buffers(part):
            found[f"model.{name}"] = buffer
        for name, parameter in part.named_parameters():
            name = plain(name)
            found[f"model.{name}"] = parameter.detach()
            for moment, value in optimizer.state[parameter].items():
                found[f"optimizer.{name}.{moment}"] = value
    return found


def kept_buffers(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that state_dict has, as the biases of routers."""
    for path, module in part.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield plain(f"{path}.{name}"), buffer


def plain(name: str) -> str:
    """A parameter's name in the bare model: wrappers put their own into the path."""
    return ".".join(part for part in name.split(".") if part != "module" and not part.startswith("_"))


def share_of(state: State, mesh: Mesh) -> State:
    """The tensors of which this rank writes what it holds, where several ranks hold the same: about equal shares.

    Ranks that hold the same have the same names in the same order. The largest go round first.
    """
    mine: State = {}
    turns: dict[int, int] = {}
    for name in sorted(state, key=lambda name: (-state[name].numel(), name)):
        index, count = copy_of(state[name], mesh)
        turn = turns.get(count, 0)
        turns[count] = turn + 1
        if turn % count == index:
            mine[name] = state[name]
    return mine


def copy_of(tensor: Tensor, mesh: Mesh) -> tuple[int, int]:
    """Which of how many ranks with the same part of a tensor this one is."""
    if not isinstance(tensor, DTensor):
        return mesh.stage.get_local_rank(), mesh.stage.size()
    along = [i for i, placement in enumerate(tensor.placements) if placement.is_replicate()]
    index = 0
    for dimension in along:
        index = index * tensor.device_mesh.size(dimension) + tensor.device_mesh.get_local_rank(dimension)
    return index, prod(tensor.device_mesh.size(dimension) for dimension in along)
