"""Matrix products in float8, by torchao."""

from torch import nn

from harness.models.transformer import Transformer


def to_float8(part: Transformer) -> None:
    """Let float8 products, with one scale for each tensor, stand for those of the blocks' projections.

    Parameters stay as they are and are scaled and rounded anew for each product, as are inputs and gradients. A
    router's gate and experts keep their type. The plan has seen that all widths are what such products take.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    def takes_it(module: nn.Module, name: str) -> bool:
        return ".router." not in name

    convert_to_float8_training(part.blocks, config=Float8LinearConfig(), module_filter_fn=takes_it)
