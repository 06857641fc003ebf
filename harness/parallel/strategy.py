"""What the training loop sees of a strategy, and what the data-parallel kinds share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.models.experts import Router
from harness.models.transformer import Transformer
from harness.parallel.checkpointing import checkpoint_blocks
from harness.parallel.compilation import compile_blocks
from harness.parallel.context import ContextParallel
from harness.parallel.expert import balance, spread_experts
from harness.parallel.float8 import to_float8
from harness.parallel.gradients import Gradients
from harness.parallel.local import local_part
from harness.parallel.mesh import Mesh
from harness.parallel.optimizer import adamw, begin
from harness.parallel.options import TYPES, Options
from harness.parallel.pipeline import Pipeline, split
from harness.parallel.state import State, share_of, state_of
from harness.parallel.storage import check, load, save
from harness.parallel.tensor import loss_in_parallel, tensor_parallel

Microbatch = tuple[Tensor, Tensor]
"""Token ids and target ids, each [local batch, seq], on the rank's device."""

Loss = Callable[[Tensor, Tensor], Tensor]


class Strategy(ABC):
    """One model on one rank: its parts, its optimizer, accumulation and clipping.

    The parts are one model, or with pipeline parallelism this rank's stages. Each is prepared in one order: tensor →
    context, expert → float8 → checkpointing → compile → data parallel, the last by subclasses in `spread`. A model
    arrives on the meta device, so that no rank ever holds what it does not keep; parameters are filled by
    `initialise` once they are spread and stand on the device.
    """

    def __init__(
        self,
        model: Transformer,
        loss: Loss,
        mesh: Mesh,
        device: torch.device,
        options: Options,
        initialise: Callable[[nn.Module], None],
    ) -> None:
        self.mesh, self.device, self.options = mesh, device, options
        self.loss = torch.compile(loss) if options.compile else loss
        self.context = ContextParallel(mesh.cp, options.context) if mesh.cp is not None else None
        self.parts: list[nn.Module] = []
        for part in split(model, mesh.pp, options.virtual_stages):
            self.prepare(part)
            self.parts.append(self.spread(part, initialise))
        self.model = nn.ModuleList(self.parts)
        self.routers = [m for m in self.model.modules() if isinstance(m, Router) and m.balance == "bias"]
        self.optimizer = self.build_optimizer()
        self.gradients = Gradients(self.model.parameters(), mesh, device)
        self.pipeline = Pipeline(self.parts, mesh.pp, device, options, self.loss) if mesh.pp is not None else None

    def prepare(self, part: Transformer) -> None:
        """Everything that comes before data parallelism, in its order."""
        mesh, options = self.mesh, self.options
        for module in part.modules():
            if isinstance(module, Router):
                # each microbatch counts for its part of the mean, in the loss and beside it
                module.aux_share /= options.microbatches
        if options.float8:
            to_float8(part)
        if mesh.tp is not None:
            tensor_parallel(part, mesh.tp)
        if self.context is not None:
            self.context.apply(part)
        if mesh.ep is not None:
            spread_experts(part, mesh.ep)
        checkpoint_blocks(part, options.checkpointing)
        if options.compile:
            compile_blocks(part, options.checkpointing)

    @abstractmethod
    def spread(self, part: Transformer, initialise: Callable[[nn.Module], None]) -> nn.Module:
        """A part with its parameters in place, ready for forward."""

    @abstractmethod
    def synchronise(self, last: bool) -> None:
        """Say before a microbatch whether its gradients are the last of the step, to be reduced."""

    def build_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer over this rank's parameters."""
        return adamw(self.model.parameters(), self.options)

    @property
    def types(self) -> dict[str, str]:
        """In what types numbers are kept and computed; gradients are reduced and added up in fp32 with all kinds."""
        names = {kind: name for name, kind in TYPES.items()}
        return {
            "parameters": " and ".join(sorted({names[parameter.dtype] for parameter in self.model.parameters()})),
            "compute": names[self.options.compute],
            "reduce": "fp32",
            "accumulate": "fp32",
            "master": "fp32",
            "moments": names[self.options.state],
        }

    @property
    def coordinates(self) -> tuple[int, int]:
        """Which part of the data this rank trains on, of how many."""
        return self.mesh.data

    def forward_backward(self, microbatches: Sequence[Microbatch]) -> Tensor:
        """Gradients of the mean over microbatches and data ranks; returns this rank's share of the loss.

        A scalar on the device; its mean over all ranks is the loss of the step.
        """
        if self.context is not None:
            microbatches = [self.context.share(tokens, targets) for tokens, targets in microbatches]
        with loss_in_parallel(self.mesh.tp):
            if self.pipeline is not None:
                return self.pipeline.forward_backward(microbatches)
            return self.accumulate(microbatches)

    def accumulate(self, microbatches: Sequence[Microbatch]) -> Tensor:
        """Forward and backward of one microbatch after another."""
        total = torch.zeros((), device=self.device)
        for index, (tokens, targets) in enumerate(microbatches):
            self.synchronise(last=index == len(microbatches) - 1)
            loss = self.loss(self.parts[0](tokens), targets) / len(microbatches)
            self.backward(loss)
            total += local_part(loss.detach())
        return total

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a microbatch's part of the loss to the step's."""
        loss.backward()

    def update(self, lr: float) -> Tensor:
        """Clip, step at learning rate `lr`, clear; returns the global gradient norm before clipping, on the device."""
        self.gradients.sum()
        norm = self.gradients.clip(self.options.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.clear()
        balance(self.routers, self.mesh)
        return norm

    def clear(self) -> None:
        """Forget the step's gradients."""
        self.optimizer.zero_grad()

    def share(self) -> State:
        """What this rank writes of the state that training goes on from, as it stands between two steps."""
        begin(self.optimizer, self.model.parameters())
        return share_of(state_of(self.parts, self.optimizer), self.mesh)

    def save(self, folder: Path, share: State, group: dist.ProcessGroup | None = None) -> list[Path]:
        """Write the state into an empty folder, each rank its `share` or a copy of it; the files that are this rank's.

        All ranks at once, which meet in `group`, or else in the group of all. OSError where a file cannot be written.
        """
        return save(folder, share, group)

    def check(self, path: Path) -> None:
        """Raise for a file that a checkpoint lists and that holds other types than a strategy writes."""
        check(path)

    def load(self, folder: Path) -> None:
        """Take up the state that a folder holds, whatever ranks and degrees wrote it; all ranks at once."""
        begin(self.optimizer, self.model.parameters())
        load(folder, state_of(self.parts, self.optimizer))
