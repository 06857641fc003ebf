"""Compilation of a model, block by block."""

from torch import nn
from torch.distributed.tensor import DTensor

from harness.models.transformer import Transformer
from harness.parallel.checkpointing import exchanges


def compile_blocks(part: Transformer, checkpointing: str) -> None:
    """torch.compile each block, already wrapped for `checkpointing`; blocks alike share one compilation.

    Where the compiler cannot follow, as in an exchange whose sizes the host has to read, a block runs in pieces. Of
    a block whose whole is recomputed it would then compile nothing, so that it is told to look inside. Likewise with
    split layers: torch 2.13 takes a DTensor's mesh for a tensor where attention is recomputed too.
    """
    for block in part.blocks.values():
        if checkpointing == "full" and (exchanges(block) or is_split(block)):
            block = block.get_submodule("_checkpoint_wrapped_module")
        block.compile()


def is_split(block: nn.Module) -> bool:
    """Whether the block's layers are split over ranks."""
    return any(isinstance(parameter, DTensor) for parameter in block.parameters())
