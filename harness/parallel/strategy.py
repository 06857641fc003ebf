"""What the training loop sees of a strategy, and what the data-parallel kinds share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh

from harness.models.transformer import Transformer

Microbatch = tuple[Tensor, Tensor]
"""Token ids and target ids, each [local batch, seq], on the rank's device."""

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Options:
    """What a strategy is told beside the model: plain values, the same for every strategy."""

    compute: torch.dtype
    compile: bool
    activation_checkpointing: bool
    reshard: bool
    betas: tuple[float, float]
    weight_decay: float
    grad_clip: float


class Strategy(ABC):
    """One model on one rank: its parts, its optimizer, accumulation and clipping.

    Subclasses spread `model` over `mesh` in `spread` and say in `synchronise` when gradients meet. The model
    arrives on the meta device, so that no rank ever holds what it does not keep; parameters are filled by
    `initialise` once they are spread and stand on the device.
    """

    def __init__(
        self,
        model: Transformer,
        loss: Loss,
        mesh: DeviceMesh,
        device: torch.device,
        options: Options,
        initialise: Callable[[nn.Module], None],
    ) -> None:
        self.mesh, self.device, self.options = mesh, device, options
        self.loss = torch.compile(loss) if options.compile else loss
        if options.activation_checkpointing:
            for index, block in enumerate(model.blocks):
                model.blocks[index] = checkpoint_wrapper(block, preserve_rng_state=False)
        if options.compile:
            for block in model.blocks:
                block.compile(fullgraph=True)
        self.model = self.spread(model, initialise)
        self.optimizer = adamw(self.model, options)

    @abstractmethod
    def spread(self, model: Transformer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """The model with its parameters in place, ready for forward."""

    @abstractmethod
    def synchronise(self, last: bool) -> None:
        """Say before a microbatch whether its gradients are the last of the step, to be reduced."""

    @property
    def coordinates(self) -> tuple[int, int]:
        """Which part of the data this rank trains on, of how many."""
        return self.mesh.get_local_rank("dp"), self.mesh["dp"].size()

    def forward_backward(self, microbatches: Sequence[Microbatch]) -> Tensor:
        """Gradients of the mean over microbatches and data ranks; returns this rank's loss, a scalar on the device."""
        total = torch.zeros((), device=self.device)
        for index, (tokens, targets) in enumerate(microbatches):
            self.synchronise(last=index == len(microbatches) - 1)
            loss = self.loss(self.model(tokens), targets) / len(microbatches)
            loss.backward()
            total += loss.detach()
        return total

    def update(self, lr: float) -> Tensor:
        """Clip, step at learning rate `lr`, clear; returns the global gradient norm before clipping, on the device."""
        norm = self.clip()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def clip(self) -> Tensor:
        """Scale gradients down to the largest norm allowed; returns the norm before that."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.grad_clip)


def adamw(model: nn.Module, options: Options) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov and Hutter 2019) with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=options.betas, fused=True)
