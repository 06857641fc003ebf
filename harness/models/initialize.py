"""Initial parameters that depend on the seed and the parameter's name alone."""

import hashlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

STD = 0.02
"""Standard deviation of initial weights, as in GPT-2 and Llama."""

RESIDUAL_OUTPUTS = ("attention.wo.weight", "feed_forward.w2.weight", "experts.w2", "shared.w2.weight")
"""Projections into the residual stream, scaled down by the number of them (GPT-2, section 2.3)."""


@torch.no_grad()
def initialize(model: nn.Module, layers: int, seed: int, device: torch.device) -> None:
    """Fill every parameter on `device`, whole or sharded, with the same values whatever the strategy.

    Each rank draws a parameter whole and keeps its shard: no communication, and no more memory than the
    largest parameter.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        # wrappers for checkpointing and compilation put their own names into the path
        plain = ".".join(part for part in name.split(".") if not part.startswith("_"))
        draw = hashlib.sha256(f"{seed}/{plain}".encode()).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(draw[:7], "big"))
        std = STD / math.sqrt(2 * layers) if plain.endswith(RESIDUAL_OUTPUTS) else STD
        whole = torch.empty(parameter.shape, device=device).normal_(0.0, std, generator=generator)
        held = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        held.copy_(part(whole, parameter))
    for buffer in model.buffers():
        buffer.zero_()


def part(whole: Tensor, like: Tensor) -> Tensor:
    """What this rank holds of a parameter, given all of it.

    The last dimension of a mesh splits first: fully_shard, which comes after tensor and expert parallelism, splits
    what those left to the rank, into chunks of which the last may be shorter or empty.
    """
    if not isinstance(like, DTensor):
        return whole
    mesh = like.device_mesh
    for dimension in reversed(range(mesh.ndim)):
        placement: Any = like.placements[dimension]
        if not isinstance(placement, Replicate):
            chunks = whole.chunk(mesh.size(dimension), placement.dim)
            index = mesh.get_local_rank(dimension)
            whole = chunks[index] if index < len(chunks) else whole.narrow(placement.dim, 0, 0)
    return whole
