"""Tensor parallelism with DTensor: layers split over tp ranks, sequences between them, the loss over the vocabulary.

Megatron's scheme with sequence parallelism (Korthikanti et al. 2022, arXiv:2205.05198). Between layers a rank has its
part of every sequence; a layer gathers whole ones once, works on its heads or hidden width, and what it gives is a
summand: the sum is scattered over the sequence again. Parameters are DTensors, which tells every other part what a
rank holds of them; the products inside a block are those of plain tensors, free of DTensor's cost per operation.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, loss_parallel, parallelize_module

from harness.models.experts import MixtureOfExperts, Router
from harness.models.transformer import Transformer
from harness.parallel.collectives import Group, start_all_gather, start_reduce_scatter, wait
from harness.parallel.context import OverSequence
from harness.parallel.local import use_local

COLUMNS = ("wq", "wk", "wv", "wkv_b", "w1", "w3")
"""Weights [..., out, in] split by what they give: heads, or hidden width."""

ROWS = ("wo", "w2")
"""Weights [..., out, in] split by what they take; what they give are summands."""


def tensor_parallel(part: Transformer, mesh: DeviceMesh) -> None:
    """Split the part's layers over `mesh`; its stream becomes this rank's [batch, seq / tp, dim]."""
    group = Group.along(mesh)
    for block in part.blocks.values():
        for name, module in block.named_modules():
            split_parameters(name.rpartition(".")[2], module, mesh)
        for layer in (block.attention, block.feed_forward):
            assert isinstance(layer, nn.Module)
            layer.register_forward_pre_hook(partial(whole_sequences, group))
            layer.register_forward_hook(partial(part_of_sum, group))
        if isinstance(block.feed_forward, MixtureOfExperts):
            route_in_parts(block.feed_forward.router, group)
    plan = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
        "output": ColwiseParallel(input_layouts=Shard(1), output_layouts=Shard(-1), use_local_output=False),
    }
    parallelize_module(part, mesh, {name: style for name, style in plan.items() if getattr(part, name) is not None})
    part.tie()
    if part.embedding is not None:
        part.embedding.register_forward_hook(arrived)
    if part.norm is not None:
        split_parameters("norm", part.norm, mesh)
    part.sequence_shards = group.size


def loss_in_parallel(mesh: DeviceMesh | None) -> AbstractContextManager[None]:
    """Where forward and backward of the loss run: with tensor parallelism it takes logits split over the vocabulary."""
    return nullcontext() if mesh is None else loss_parallel()


def split_parameters(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    """Make DTensors of the parameters of the module of that name; its forward sees this rank's plain parts."""
    parameters = dict(module.named_parameters(recurse=False))
    for own, parameter in parameters.items():
        placement = placed(name if own == "weight" else own, parameter)
        module.register_parameter(own, nn.Parameter(distribute_tensor(parameter, mesh, [placement])))
    if parameters:
        use_local(module)


def placed(name: str, weight: Tensor) -> Placement:
    """How ranks hold a weight of that name."""
    if name in COLUMNS:
        return Shard(weight.dim() - 2)
    if name in ROWS:
        return Shard(weight.dim() - 1)
    return Replicate()


class GatherSequence(torch.autograd.Function):
    """Whole sequences [batch, seq, …] of the ranks' parts [batch, seq / tp, …]; gradients are summands."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return gathered(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return scattered_sum(gradient, ctx.group), None


class ScatterSum(torch.autograd.Function):
    """The part [batch, seq / tp, …] of the sum over ranks of [batch, seq, …]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return scattered_sum(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gathered(gradient, ctx.group), None


def gathered(part: Tensor, group: Group) -> Tensor:
    by_rank = wait(start_all_gather(part, group)).unflatten(0, (group.size, -1))
    return by_rank.transpose(0, 1).flatten(1, 2)


def scattered_sum(whole: Tensor, group: Group) -> Tensor:
    by_rank = whole.unflatten(1, (group.size, -1)).transpose(0, 1)
    return wait(start_reduce_scatter(by_rank.flatten(0, 1), group))


def whole_sequences(group: Group, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Before a layer: its input gathered, once for all that it projects it to."""
    return GatherSequence.apply(inputs[0], group), *inputs[1:]


def part_of_sum(group: Group, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """After a layer: this rank's part of what all ranks give together."""
    return ScatterSum.apply(output, group)


def arrived(embedding: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """After the embedding: its own tensor, not a view of one on its way, to which compiled blocks give no gradient."""
    return output.clone()


def route_in_parts(router: Router, group: Group) -> None:
    """Let each rank route its part of the sequence for all, so that they agree whatever their rounding."""

    def own_part(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0].chunk(group.size, 1)[group.rank]

    def routes_of_all(_: nn.Module, inputs: Any, routes: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return tuple(GatherSequence.apply(x, group) for x in routes)

    router.register_forward_pre_hook(own_part)
    router.register_forward_hook(routes_of_all)
    router.sequence_ranks *= group.size
    # gradients of ranks that share layers are added up
    router.aux_share /= group.size
    router.over_sequence = OverSequence(router.over_sequence, group)
