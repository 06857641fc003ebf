"""What a strategy is told beside the model."""

from dataclasses import dataclass

import torch

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Types by their names in configurations and records."""


@dataclass(frozen=True)
class Options:
    """Plain values, the same for every strategy.

    microbatches: forward passes of a rank in one step. context: how attention sees the whole of a sequence that cp
    ranks share. state: the type of the optimizer's moments.
    """

    compute: torch.dtype
    compile: bool
    checkpointing: str
    reshard: bool
    betas: tuple[float, float]
    weight_decay: float
    grad_clip: float
    microbatches: int = 1
    schedule: str = "1f1b"
    virtual_stages: int = 1
    context: str = "all_gather"
    float8: bool = False
    state: torch.dtype = torch.float32
