"""AdamW over this rank's parameters."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw as adamw_step

from harness.parallel.local import local_part
from harness.parallel.options import Options

TOGETHER = 1 << 26
"""Elements of which an AdamW with narrow moments holds fp32 copies at a time: 0.5 GiB of them."""

Piece = tuple[Tensor, ...]
"""Elements of a parameter, of its gradient and of its two moments, and the number of steps so far."""


def adamw(parameters: Iterable[nn.Parameter], options: Options) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019) in fused kernels, with weight decay on matrices only.

    One group for each mesh: a fused step takes no two of them together.
    """
    groups: dict[Any, dict[str, Any]] = {}
    for parameter in parameters:
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        decay = options.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((mesh, decay), {"params": [], "weight_decay": decay})["params"].append(parameter)
    if options.state == torch.float32:
        return torch.optim.AdamW(list(groups.values()), betas=options.betas, fused=True)
    return NarrowAdamW(list(groups.values()), betas=options.betas, moments=options.state)


def begin(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Make the moments and step counts, zeros, that the first step would make: others can be copied into them."""
    for parameter in parameters:
        if not optimizer.state[parameter]:
            moments = optimizer.moments if isinstance(optimizer, NarrowAdamW) else parameter.dtype
            optimizer.state[parameter] = zeros(parameter, moments)


def zeros(parameter: Tensor, moments: torch.dtype) -> dict[str, Tensor]:
    """A parameter's state before its first step; the count on its device, as fused steps ask."""
    return {
        "step": torch.zeros((), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter, dtype=moments),
        "exp_avg_sq": torch.zeros_like(parameter, dtype=moments),
    }


class NarrowAdamW(torch.optim.AdamW):
    """AdamW that keeps its two moments in the type `moments` and computes in that of the parameters.

    A moment decays only where its type resolves the change: for bf16 betas must be below 1 - 2^-8 = 0.996.
    """

    def __init__(self, params: Any, *, betas: tuple[float, float], moments: torch.dtype) -> None:
        super().__init__(params, betas=betas, fused=True)
        self.moments = moments

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step, some elements after others."""
        assert closure is None
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            for some in bunches(piece for parameter in moved for piece in self.pieces(parameter)):
                step_wide(some, group)
            for parameter in moved:
                self.state[parameter]["step"] += 1

    def pieces(self, parameter: Tensor) -> Iterator[Piece]:
        """This rank's part of a parameter, in several pieces where it is large."""
        assert parameter.grad is not None
        state = self.state_of(parameter)
        whole = [local_part(x) for x in (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])]
        for piece in zip(*(x.view(-1).split(TOGETHER) for x in whole), strict=True):
            # a number of its own, since the fused step counts it
            yield *piece, state["step"].clone()

    def state_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter's moments and number of steps, zeros at first."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state.update(zeros(parameter, self.moments))
        return state


def step_wide(pieces: list[Piece], group: dict[str, Any]) -> None:
    """Widen the moments, step with the fused kernel, narrow them again."""
    parameters, gradients, first, second, steps = (list(tensors) for tensors in zip(*pieces, strict=True))
    wide_first, wide_second = (
        [moment.to(parameter.dtype) for moment, parameter in zip(moments, parameters, strict=True)]
        for moments in (first, second)
    )
    adamw_step(
        parameters,
        gradients,
        wide_first,
        wide_second,
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
    torch._foreach_copy_(first + second, wide_first + wide_second)


def bunches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The pieces in lists of at most TOGETHER elements."""
    bunch: list[Piece] = []
    size = 0
    for piece in pieces:
        if bunch and size + piece[0].numel() > TOGETHER:
            yield bunch
            bunch, size = [], 0
        bunch.append(piece)
        size += piece[0].numel()
    if bunch:
        yield bunch
