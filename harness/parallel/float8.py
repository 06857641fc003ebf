"""Matrix products in float8, by torchao."""

from torch import nn

from harness.models.transformer import Transformer

MULTIPLE = 16
"""Widths that the hardware's float8 products take are multiples of it."""


def to_float8(part: Transformer) -> None:
    """Let float8 products, with one scale for each tensor, stand for those of the blocks' projections.

    Parameters stay as they are and are scaled and rounded anew for each product, as are inputs and gradients. A
    router's gate and experts keep their type, and so does a projection whose widths are no multiples of 16.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def takes_it(module: nn.Module, name: str) -> bool:
        assert isinstance(module, nn.Linear)
        return ".router." not in name and module.in_features % MULTIPLE == module.out_features % MULTIPLE == 0

    convert_to_float8_training(part.blocks, config=Float8LinearConfig(), module_filter_fn=takes_it)
