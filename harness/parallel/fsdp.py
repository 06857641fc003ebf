"""Sharded parameters, gathered block by block, gradients reduce-scattered (FSDP2); with copies also all-reduced."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

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
        reshard = self.options.reshard
        for block in part.blocks.values():
            self.shard_experts(block, policy)
            fully_shard(block, **shard, reshard_after_forward=reshard)
        if not part.tied:
            if part.embedding is not None:
                fully_shard(part.embedding, **shard, reshard_after_forward=reshard)
            if part.output is not None:
                # gathered again at once by backward, so never freed in between
                fully_shard([part.norm, part.output], **shard, reshard_after_forward=False)
        fully_shard(part, **shard)
        part.to_empty(device=self.device)
        initialise(part)
        return part

    def shard_experts(self, block: nn.Module, policy: MixedPrecisionPolicy) -> None:
        """Split the block's experts over the ranks that hold the same ones, where experts are spread."""
        if self.mesh.ep is not None:
            raise NotImplementedError

    def synchronise(self, last: bool) -> None:
        for part in self.parts:
            assert isinstance(part, FSDPModule)
            part.set_requires_gradient_sync(last)
            part.set_is_last_backward(last)
