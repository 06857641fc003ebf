"""Replicated parameters, gradients all-reduced in buckets while backward runs."""

from collections.abc import Callable

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from harness.models.transformer import Transformer
from harness.parallel.strategy import Strategy


class DDP(Strategy):
    """torch's DistributedDataParallel; parameters, gradients and optimizer state are whole on every rank."""

    def spread(self, model: Transformer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        model.to_empty(device=self.device)
        initialise(model)
        ids = [self.device.index] if self.device.type == "cuda" else None
        self.replica = DistributedDataParallel(
            model, device_ids=ids, process_group=self.mesh.get_group("dp"), gradient_as_bucket_view=True
        )
        return self.replica

    def synchronise(self, last: bool) -> None:
        self.replica.require_backward_grad_sync = last
