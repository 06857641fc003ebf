"""What a model's shape costs: parameters, and floating-point operations a token."""

from harness.config import Model

FLOPS_CONVENTION = "palm-appendix-b"


def block_parameters(model: Model) -> int:
    """Parameters of one block.

    q, k, v and o projections, SwiGLU's three matrices and two RMSNorm weights; no biases.
    """
    query = model.heads * model.head_dim
    key = model.kv_heads * model.head_dim
    attention = model.dim * (2 * query + 2 * key)
    feed_forward = 3 * model.dim * model.ffn_dim
    return attention + feed_forward + 2 * model.dim


def embedding_parameters(model: Model) -> int:
    """Parameters of one vocabulary matrix, the input embedding's or the output projection's."""
    return model.vocab_size * model.dim


def parameters(model: Model) -> int:
    """All parameters of the model; a tied output projection counts once."""
    vocabulary = embedding_parameters(model) * (1 if model.tied_embeddings else 2)
    return vocabulary + model.layers * block_parameters(model) + model.dim


def parameters_without_embedding(model: Model) -> int:
    """N of the FLOPs formula: the parameters that multiply every token.

    The input embedding is a lookup and stays out; a tied one is also the output projection and stays in.
    """
    return parameters(model) - (0 if model.tied_embeddings else embedding_parameters(model))


def flops_per_token(model: Model, seq_len: int) -> float:
    """Model FLOPs of one trained token, forward and backward.

    6N + 6·L·H·(d_qk + d_v)·T: PaLM (arXiv:2204.02311), appendix B. Attention is counted over the full
    sequence, without a causal discount; recomputation is not counted.
    """
    return 6.0 * parameters_without_embedding(model) + _attention_flops(model, seq_len)


def flops_per_token_causal(model: Model, seq_len: int) -> float:
    """The same with half of the attention term, which is what a causal kernel has to compute."""
    return 6.0 * parameters_without_embedding(model) + _attention_flops(model, seq_len) / 2


def _attention_flops(model: Model, seq_len: int) -> float:
    return 6.0 * model.layers * model.heads * (model.head_dim + model.head_dim) * seq_len
