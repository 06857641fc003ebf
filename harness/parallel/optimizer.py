"""AdamW over this rank's parameters."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw as adamw_step

from harness.parallel.options import Options

TOGETHER = 1 << 26
"""Elements of which an AdamW with narrow moments holds fp32 copies at a time: 0.5 GiB of them."""


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


class NarrowAdamW(torch.optim.AdamW):
    """AdamW that keeps its two moments in the type `moments` and computes in that of the parameters.

    A moment decays only where its type resolves the change: for bf16 betas must be below 1 - 2^-8 = 0.996.
    """

    def __init__(self, params: Any, *, betas: tuple[float, float], moments: torch.dtype) -> None:
        super().__init__(params, betas=betas, fused=True)
        self.moments = moments

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Widen the moments of some parameters, step with the fused kernel, narrow them again; then the next."""
        assert closure is None
        for group in self.param_groups:
            for some in bunches(parameter for parameter in group["params"] if parameter.grad is not None):
                states = [self.state_of(parameter) for parameter in some]
                first, second = ([local(state[name]) for state in states] for name in ("exp_avg", "exp_avg_sq"))
                parameters = [local(parameter) for parameter in some]
                wide_first, wide_second = (
                    [moment.to(parameter.dtype) for moment, parameter in zip(moments, parameters, strict=True)]
                    for moments in (first, second)
                )
                adamw_step(
                    parameters,
                    [local(parameter.grad) for parameter in some if parameter.grad is not None],
                    wide_first,
                    wide_second,
                    [],
                    [state["step"] for state in states],
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

    def state_of(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter's moments and number of steps, zeros at first; the number on the device, as fused steps ask."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, dtype=self.moments)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=self.moments)
        return state


def bunches(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The parameters in lists of about TOGETHER elements of this rank."""
    bunch: list[Tensor] = []
    for parameter in parameters:
        bunch.append(parameter)
        if sum(local(one).numel() for one in bunch) >= TOGETHER:
            yield bunch
            bunch = []
    if bunch:
        yield bunch


def local(tensor: Tensor) -> Tensor:
    """This rank's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
