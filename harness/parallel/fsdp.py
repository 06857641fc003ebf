"""Sharded parameters, gathered block by block, gradients reduce-scattered (FSDP2); with copies also all-reduced."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from harness.models.experts import Experts
from harness.models.transformer import Transformer
from harness.parallel.strategy import Strategy


class FSDP(Strategy):
    """torch's fully_shard: parameters, gradients and optimizer state are split over the ranks that share a copy.

    With one copy that is fsdp, with more hsdp. Experts that live on different ranks are split over those that hold
    the same ones.
    """

    def spread(self, part: Transformer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        policy = MixedPrecisionPolicy(param_dtype=self.options.compute, reduce_dtype=torch.float32)
        shard: dict[str, Any] = {"mesh": self.mesh.sharded(), "mp_policy": policy}
        shard["shard_placement_fn"] = partial(split_evenly, self.mesh.fsdp.size())
        # stages keep what they gathered over a step: torch frees nothing after their microbatches' backward passes,
        # and weight gradients that are taken apart from those need the parameters that forward has seen
        reshard = self.options.reshard and self.mesh.pp is None
        for block in part.blocks.values():
            self.shard_experts(block, policy, reshard)
            fully_shard(block, **shard, reshard_after_forward=reshard)
        if not part.tied:
            if part.embedding is not None:
                fully_shard(part.embedding, **shard, reshard_after_forward=reshard)
            if part.norm is not None and part.output is not None:
                # gathered again at once by backward, so never freed in between
                fully_shard([part.norm, part.output], **shard, reshard_after_forward=False)
        fully_shard(part, **shard)
        part.to_empty(device=self.device)
        initialise(part)
        return part

    def shard_experts(self, block: nn.Module, policy: MixedPrecisionPolicy, reshard: bool) -> None:
        """Split the block's experts over the ranks that hold the same ones, where experts are spread."""
        if self.mesh.ep is None:
            return
        ranks = self.mesh.expert_fsdp.size()
        for module in block.modules():
            if isinstance(module, Experts):
                experts = fully_shard(
                    module,
                    mesh=self.mesh.sharded(experts=True),
                    mp_policy=policy,
                    reshard_after_forward=reshard,
                    shard_placement_fn=partial(split_evenly, ranks),
                )
                # their gradients are sums over the ranks that sent them tokens, and are to be means over all
                experts.set_gradient_divide_factor(float(self.mesh.everyone.size()))
                # gloo cannot multiply before it sums; where there is nothing to sum, torch would divide twice
                experts.set_force_sum_reduction_for_comms(ranks > 1)

    def synchronise(self, last: bool) -> None:
        for part in self.parts:
            assert isinstance(part, FSDPModule)
            part.set_requires_gradient_sync(last)


def split_evenly(ranks: int, parameter: nn.Parameter) -> Shard | None:
    """Along which dimension ranks split the experts' parameters: the first that leaves none with more than others.

    With fewer experts than ranks, some would hold a whole one and others nothing.
    """
    if parameter.dim() != 3:
        return None
    held = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return next((Shard(dim) for dim, size in enumerate(held.shape) if size % ranks == 0), None)
