"""What trades compute for memory or precision for speed, block by block: checkpointing, compilation, float8."""

from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from harness.models.transformer import Transformer


def checkpoint_blocks(part: Transformer, how: str) -> None:
    """Recompute in backward: `none`, `selective` (all but matrix products and attention) or `full`."""
    if how == "none":
        return
    for index, block in part.blocks.items():
        part.blocks[index] = checkpoint_wrapper(block, preserve_rng_state=False)


def compile_blocks(part: Transformer) -> None:
    """torch.compile each block."""
    for block in part.blocks.values():
        block.compile()


def to_float8(part: Transformer) -> None:
    """Let torchao's float8 products stand for those of the blocks' projections."""
    raise NotImplementedError
