"""Context parallelism: cp ranks share every sequence."""

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from harness.models.transformer import Transformer


class ContextParallel:
    """How a sequence is shared out over `mesh`, and how attention sees all of it."""

    def __init__(self, mesh: DeviceMesh, how: str) -> None:
        raise NotImplementedError

    def apply(self, part: Transformer) -> None:
        """Let the part's attention see whole sequences and its rotation know the positions."""

    def share(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's part of a microbatch [batch, seq]: [batch, seq / cp]."""
        raise NotImplementedError
