"""Compilation of a model, block by block."""

from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

from harness.models.transformer import Transformer
from harness.parallel.checkpointing import exchanges


def compile_blocks(part: Transformer) -> None:
    """torch.compile each block; blocks alike share one compilation.

    Where the compiler cannot follow, as in an exchange whose sizes the host has to read, a block runs in pieces. Of
    a checkpointed block it would then compile nothing, so that it is told to look inside.
    """
    for block in part.blocks.values():
        if isinstance(block, CheckpointWrapper) and exchanges(block):
            block = block.get_submodule("_checkpoint_wrapped_module")
        block.compile()
