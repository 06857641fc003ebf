"""What a model's shape costs: parameters, and floating-point operations a token."""

from harness.config import Model

FLOPS_CONVENTION = "palm-appendix-b"


def has_experts(model: Model, block: int) -> bool:
    """Whether the feed-forward of a block, counted from 0, is a mixture of experts."""
    return model.experts > 0 and block >= model.dense_layers


def attention_parameters(model: Model) -> int:
    """Parameters of one block's attention: its projections, and the latent's RMSNorm weight where there is one."""
    if model.kv_lora_rank == 0:
        return model.dim * (2 * model.heads + 2 * model.kv_heads) * model.head_dim
    query = model.dim * model.heads * (model.head_dim + model.rope_head_dim)
    compressed = model.dim * (model.kv_lora_rank + model.rope_head_dim) + model.kv_lora_rank
    expanded = model.kv_lora_rank * model.heads * (model.head_dim + model.v_head_dim)
    return query + compressed + expanded + model.heads * model.v_head_dim * model.dim


def expert_parameters(model: Model) -> int:
    """Parameters of one expert: SwiGLU's three matrices."""
    return 3 * model.dim * model.expert_ffn_dim


def feed_forward_parameters(model: Model, block: int, active: bool = False) -> int:
    """Parameters of a block's feed-forward; `active`: only those that a token meets.

    A mixture of experts has a router, its experts, of which a token meets `experts_per_token`, and the shared ones.
    """
    if not has_experts(model, block):
        return 3 * model.dim * model.ffn_dim
    routed = model.experts_per_token if active else model.experts
    return model.dim * model.experts + (routed + model.shared_experts) * expert_parameters(model)


def block_parameters(model: Model, block: int = 0, active: bool = False) -> int:
    """Parameters of one block, counted from 0: attention, feed-forward and two RMSNorm weights; no biases."""
    return attention_parameters(model) + feed_forward_parameters(model, block, active) + 2 * model.dim


def embedding_parameters(model: Model) -> int:
    """Parameters of one vocabulary matrix, the input embedding's or the output projection's."""
    return model.vocab_size * model.dim


def parameters(model: Model, active: bool = False) -> int:
    """All parameters of the model, or those that a token meets; a tied output projection counts once."""
    vocabulary = embedding_parameters(model) * (1 if model.tied_embeddings else 2)
    blocks = sum(block_parameters(model, block, active) for block in range(model.layers))
    return vocabulary + blocks + model.dim


def parameters_without_embedding(model: Model, active: bool = False) -> int:
    """The parameters that enter matrix products and norms; with `active`, N of the FLOPs formula.

    The input embedding is a lookup and stays out; a tied one is also the output projection and stays in.
    """
    return parameters(model, active) - (0 if model.tied_embeddings else embedding_parameters(model))


def flops_per_token(model: Model, seq_len: int) -> float:
    """Model FLOPs of one trained token, forward and backward.

    6N + 6·L·H·(d_qk + d_v)·T: PaLM (arXiv:2204.02311), appendix B. N counts the experts that a token is sent to, not
    those it is not. Attention is counted over the full sequence, without a causal discount; recomputation is not
    counted.
    """
    return 6.0 * parameters_without_embedding(model, active=True) + _attention_flops(model, seq_len)


def flops_per_token_causal(model: Model, seq_len: int) -> float:
    """The same with half of the attention term, which is what a causal kernel has to compute."""
    return 6.0 * parameters_without_embedding(model, active=True) + _attention_flops(model, seq_len) / 2


def _attention_flops(model: Model, seq_len: int) -> float:
    latent = model.kv_lora_rank > 0
    query = model.head_dim + (model.rope_head_dim if latent else 0)
    value = model.v_head_dim if latent else model.head_dim
    return 6.0 * model.layers * model.heads * (query + value) * seq_len
