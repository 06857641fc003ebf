"""Expert parallelism: each rank holds some of the experts, and tokens travel to theirs."""

from collections.abc import Sequence

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from harness.models.transformer import Transformer
from harness.parallel.mesh import Mesh


def spread_experts(part: Transformer, mesh: DeviceMesh) -> None:
    """Let each rank of `mesh` keep its experts, and exchange tokens with the others."""
    raise NotImplementedError


def balance(parts: Sequence[nn.Module], mesh: Mesh) -> None:
    """After a step, move the routers' biases towards an even load."""
