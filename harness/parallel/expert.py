"""Expert parallelism: each rank holds some of the experts, and tokens travel to theirs and back."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard

from harness.models.experts import Experts, Reorder, Router
from harness.models.transformer import Transformer
from harness.parallel.collectives import AllToAll, Group, all_to_all
from harness.parallel.local import use_local
from harness.parallel.mesh import Mesh


def spread_experts(part: Transformer, mesh: DeviceMesh) -> None:
    """Let each rank of `mesh` keep its experts, and exchange tokens with the others."""
    for module in part.modules():
        if isinstance(module, Experts):
            keep_own(module, mesh)
            module.exchange = TokenExchange(Group.along(mesh))


def keep_own(experts: nn.Module, mesh: DeviceMesh) -> None:
    """Make DTensors over `mesh` of the parameters [experts, …]; forward sees this rank's plain parts."""
    for name, parameter in list(experts.named_parameters()):
        held = own_part(parameter, mesh)
        experts.register_parameter(name, nn.Parameter(held))
    use_local(experts, held.device_mesh.ndim)


def own_part(parameter: Tensor, mesh: DeviceMesh) -> DTensor:
    """This rank's part of a parameter [experts, ...], whose later dimensions may be split already."""
    placements: tuple[Placement, ...] = (Shard(0),)
    joint = mesh
    if isinstance(parameter, DTensor):
        placements += parameter.placements
        joint = DeviceMesh._concatenate([mesh, parameter.device_mesh])
        parameter = parameter.to_local()
    own = parameter.detach().chunk(mesh.size())[mesh.get_local_rank()]
    return DTensor.from_local(own, joint, placements, run_check=False)


class TokenExchange:
    """Brings rows to the ranks that hold their experts, and back, to each rank as many as it is to have."""

    def __init__(self, group: Group) -> None:
        self.group = group

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def dispatch(self, rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Rows [n, dim] sorted by expert, `counts` [experts] of them for each: see harness.models.experts.Exchange."""
        group, each = self.group, len(counts) // self.group.size
        arrived = all_to_all(counts, [each] * group.size, [each] * group.size, group)
        # [ranks, experts of one]: the one time that the host waits, for it must know how much to send
        sent, received = torch.stack((counts, arrived)).view(2, group.size, each).sum(-1).tolist()
        order = by_expert(arrived.view(group.size, each), sum(received))
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))

        def back(done: Tensor) -> Tensor:
            return AllToAll.apply(Reorder.apply(done, inverse, order, 1), received, sent, group)

        rows = Reorder.apply(AllToAll.apply(rows, sent, received, group), order, inverse, 1)
        # so that what follows is compiled once, not for this number of rows first
        torch._dynamo.maybe_mark_dynamic(rows, 0)
        return rows, arrived.view(group.size, each).sum(0), torch.compiler.disable(back)


def by_expert(counts: Tensor, rows: int) -> Tensor:
    """The order [rows] that sorts rows by expert which lie sorted by rank, then expert: `counts` [ranks, experts]."""
    starts = (counts.flatten().cumsum(0) - counts.flatten()).view_as(counts)
    lengths = counts.T.flatten()
    moves = starts.T.flatten() - (lengths.cumsum(0) - lengths)
    return moves.repeat_interleave(lengths, output_size=rows) + torch.arange(rows, device=counts.device)


def balance(routers: Sequence[Router], mesh: Mesh) -> None:
    """After a step, move the biases of a stage's routers towards an even load over all of its ranks."""
    if not routers:
        return
    loads = torch.stack([router.load for router in routers])
    if mesh.stage.size() > 1:
        dist.all_reduce(loads, group=mesh.stage.get_group())
    for router, load in zip(routers, loads, strict=True):
        router.rebalance(load)
