"""Replicated parameters, gradients all-reduced in buckets while backward runs."""

import warnings
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from harness.models.transformer import Transformer
from harness.parallel.strategy import Strategy

# what torch 2.13 would rather be told, 2.11 does not know
warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)


class DDP(Strategy):
    """torch's DistributedDataParallel; parameters, gradients and optimizer state are whole on every rank."""

    def spread(self, part: Transformer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        part.to_empty(device=self.device)
        initialise(part)
        # blocks are compiled one by one; cut up where buckets end they would keep more activations
        torch._dynamo.config.optimize_ddp = False
        ids = [self.device.index] if self.device.type == "cuda" else None
        # every rank counts its routers' loads by itself
        return DistributedDataParallel(
            part,
            device_ids=ids,
            process_group=self.mesh.everyone.get_group(),
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )

    def synchronise(self, last: bool) -> None:
        for part in self.parts:
            assert isinstance(part, DistributedDataParallel)
            part.require_backward_grad_sync = last

    def clear(self) -> None:
        # they stay in the buckets: those of several microbatches would else add up outside, and be there twice
        self.optimizer.zero_grad(set_to_none=False)
