"""Sharded parameters, gathered block by block, gradients reduce-scattered (FSDP2)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from harness.models.transformer import Transformer
from harness.parallel.strategy import Strategy


class FSDP(Strategy):
    """torch's fully_shard: parameters, gradients and optimizer state are split over the data-parallel ranks."""

    def spread(self, model: Transformer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        policy = MixedPrecisionPolicy(param_dtype=self.options.compute, reduce_dtype=torch.float32)
        shard: dict[str, Any] = {"mesh": self.mesh["dp"], "mp_policy": policy}
        for block in model.blocks:
            fully_shard(block, **shard, reshard_after_forward=self.options.reshard)
        if model.output.weight is not model.embedding.weight:
            fully_shard(model.embedding, **shard, reshard_after_forward=self.options.reshard)
            # gathered again at once by backward, so never freed in between
            fully_shard([model.norm, model.output], **shard, reshard_after_forward=False)
        self.root: FSDPModule = fully_shard(model, **shard)
        model.to_empty(device=self.device)
        initialise(model)
        return model

    def synchronise(self, last: bool) -> None:
        self.root.set_requires_gradient_sync(last)
        self.root.set_is_last_backward(last)

    def clip(self) -> Tensor:
        norm = super().clip()
        return norm.full_tensor() if isinstance(norm, DTensor) else norm
