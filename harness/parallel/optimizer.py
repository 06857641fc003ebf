"""AdamW over this rank's parameters."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from harness.parallel.options import Options


def adamw(parameters: Iterable[nn.Parameter], options: Options) -> torch.optim.Optimizer:
    """Fused AdamW (Loshchilov and Hutter 2019) with weight decay on matrices only.

    One group for each mesh: a fused step takes no two of them together.
    """
    groups: dict[Any, dict[str, Any]] = {}
    for parameter in parameters:
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        decay = options.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((mesh, decay), {"params": [], "weight_decay": decay})["params"].append(parameter)
    return torch.optim.AdamW(list(groups.values()), betas=options.betas, fused=True)
