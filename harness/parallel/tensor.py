"""Tensor parallelism with DTensor: layers split over tp ranks, sequences between them, the loss over the vocabulary."""

from contextlib import AbstractContextManager, nullcontext

from torch.distributed.device_mesh import DeviceMesh

from harness.models.transformer import Transformer


def tensor_parallel(part: Transformer, mesh: DeviceMesh) -> None:
    """Split the part's layers over `mesh`."""
    raise NotImplementedError


def loss_in_parallel(mesh: DeviceMesh | None) -> AbstractContextManager[None]:
    """Where forward and backward of the loss run: with tensor parallelism it takes logits split over the vocabulary."""
    return nullcontext()
