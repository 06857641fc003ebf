"""Activation checkpointing: what a block does not keep for backward, it computes again there."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from harness.models.experts import Experts, MixtureOfExperts
from harness.models.transformer import Block, Transformer

_aten, _collectives = torch.ops.aten, torch.ops._c10d_functional

KEPT: frozenset[Callable[..., Any]] = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten._scaled_mm.default,
        _aten._grouped_mm.default,
        # no bmm: the attention that does not fuse would keep all scores
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.higher_order.flex_attention,
        _collectives.all_gather_into_tensor.default,
        _collectives.all_reduce.default,
        _collectives.all_to_all_single.default,
        _collectives.reduce_scatter_tensor.default,
        # a number that took the whole tensor to find: the scale of a float8 product
        _aten.max.default,
    }
)
"""What selective checkpointing keeps the results of: matrix products, attention, communication."""


def checkpoint_blocks(part: Transformer, how: str) -> None:
    """Recompute in backward `none` of a block, `full`: all of it, or `selective`: all but what KEPT lists."""
    if how == "none":
        return
    for index, block in part.blocks.items():
        if how == "full":
            part.blocks[index] = checkpoint_wrapper(block, preserve_rng_state=False)
        elif exchanges(block):
            keep_around_exchange(block)
        else:
            part.blocks[index] = keeping(block)


def exchanges(block: nn.Module) -> bool:
    """Whether the block's tokens travel to experts on other ranks."""
    return any(isinstance(module, Experts) and module.exchange is not None for module in block.modules())


def keep_around_exchange(block: nn.Module) -> None:
    """Checkpoint selectively what comes before, amid and after a block's exchange, but not the exchange.

    It runs once, the compiler need not follow it, and the parameters that fully_shard gathers for the experts, in
    other ways forward and backward, are no part of what is computed again.
    """
    assert isinstance(block, Block)
    experts = block.feed_forward
    assert isinstance(experts, MixtureOfExperts)
    block.attention = keeping(block.attention)
    experts.router = keeping(experts.router)
    if experts.shared is not None:
        experts.shared = keeping(experts.shared)
    vars(experts.experts)["products"] = partial(
        checkpoint, experts.experts.products, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )


def keeping(module: nn.Module) -> Any:
    """The module with selective checkpointing."""
    return checkpoint_wrapper(module, preserve_rng_state=False, context_fn=contexts)


def contexts() -> tuple[Any, Any]:
    """What a block's forward runs in, and what its recomputation does."""
    first, again = create_selective_checkpoint_contexts(policy)
    return first, again


def policy(context: Any, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Whether an operation's result is kept."""
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE
