"""Pipeline parallelism: stages of blocks, and the schedule of microbatches through them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from harness.models.transformer import Transformer
from harness.parallel.options import Options


def split(model: Transformer, mesh: DeviceMesh | None, schedule: str, virtual_stages: int) -> Iterator[Transformer]:
    """This rank's stages of the model; the model itself without a pipeline."""
    if mesh is None:
        yield model
        return
    raise NotImplementedError


class Pipeline:
    """The schedule that drives this rank's stages."""

    def __init__(
        self, parts: Sequence[nn.Module], mesh: DeviceMesh, device: torch.device, options: Options, loss: Any
    ) -> None:
        raise NotImplementedError

    def forward_backward(self, microbatches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Gradients of all microbatches; this rank's share of the loss."""
        raise NotImplementedError
