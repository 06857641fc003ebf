"""How many numbers one token leaves behind on a rank in the forward pass for the backward pass."""

from harness.config import Config, Model
from harness.plan.model import has_experts
from harness.plan.parts import COMPUTE_BYTES, FP32


def key_value_width(model: Model) -> int:
    """Numbers of one token's keys and values, over all heads."""
    if model.kv_lora_rank:
        return model.heads * (model.head_dim + model.rope_head_dim + model.v_head_dim)
    return 2 * model.kv_heads * model.head_dim


def query_width(model: Model) -> int:
    """Numbers of one token's queries, over all heads."""
    return model.heads * (model.head_dim + model.rope_head_dim)


def mixed_width(model: Model) -> int:
    """Numbers of what attention gives for one token, over all heads."""
    return model.heads * (model.v_head_dim or model.head_dim)


def stream(config: Config) -> int:
    """Numbers of one token's stream on a rank: ranks that share layers have parts of the sequence."""
    return config.model.dim // config.parallel.tp


def kept(config: Config, index: int) -> int:
    """Numbers that a block keeps for backward."""
    if config.activation_checkpointing == "full":
        return stream(config)
    if config.activation_checkpointing == "selective":
        return _products(config, index)
    return _everything(config, index)


def recomputed(config: Config, index: int) -> int:
    """Numbers of a block that exist again while its backward runs."""
    if config.activation_checkpointing == "full":
        return _everything(config, index)
    return max(0, _everything(config, index) - kept(config, index))


def head(config: Config) -> int:
    """Numbers of the last norm's input and of its output, of which each rank that shares layers gathers all."""
    return stream(config) + config.model.dim


def _everything(config: Config, index: int) -> int:
    """The inputs of all operations of a block.

    Both norms' inputs and outputs, what attention keeps, and of SwiGLU the two inner products and what enters the
    last one; without compilation also the SiLU's output. Norms' outputs are gathered whole by ranks that share layers.
    With float8 what enters a projection is kept in float8, and what enters the last one of SwiGLU is made again.
    """
    model, tp = config.model, config.parallel.tp
    inner, normed = (3 if config.compile else 4), 2 * model.dim
    if config.precision.float8:
        inner, normed = inner - 1, normed // 2
    found = 2 * stream(config) + normed + (_attention(config) + inner * _hidden(model, index)) // tp
    if has_experts(model, index):
        # a token's rows as they enter the experts and leave them; the router's input and scores in fp32
        wide = FP32 // COMPUTE_BYTES[config.precision.compute]
        found += 2 * model.experts_per_token * model.dim
        found += (model.dim * (wide if wide > 1 else 0) + model.experts * wide) // tp
    return found


def _products(config: Config, index: int) -> int:
    """A block's input and the results of its matrix products, its attention and its communication."""
    model, tp = config.model, config.parallel.tp
    found = stream(config) + 2 * model.dim + (_attention(config) + 2 * _hidden(model, index)) // tp
    if tp > 1:
        found += 2 * model.dim + 2 * stream(config)
    if has_experts(model, index):
        found += model.experts_per_token * model.dim
    return found


def _hidden(model: Model, index: int) -> int:
    """Width of all feed-forwards that take one token."""
    if not has_experts(model, index):
        return model.ffn_dim
    return (model.experts_per_token + model.shared_experts) * model.expert_ffn_dim


def _attention(config: Config) -> int:
    """Queries, keys, values and what attention gives; flash attention keeps no scores.

    Latent attention also has the latent, and its kernels want values as wide as keys. Ranks that share sequences keep
    the keys and values of all, or what they mixed before and after the exchange.
    """
    model, parallel = config.model, config.parallel
    query, mixed = query_width(model), mixed_width(model)
    found = query + key_value_width(model) + mixed
    if model.kv_lora_rank:
        found += 2 * query - mixed + parallel.tp * (2 * model.kv_lora_rank + model.rope_head_dim)
    if parallel.cp > 1:
        found += parallel.cp * key_value_width(model) if parallel.context == "all_gather" else mixed
    return found
