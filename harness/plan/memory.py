"""How much device memory one rank of a point needs, estimated before it starts.

An estimate for planning, fitted to the 1b points of docs/measurements and within 10 % of all peaks of allocated memory
there; what the CUDA context, NCCL's buffers and fragmentation take (a few GiB) comes on top.
"""

from dataclasses import dataclass

from harness.config import Config, Model
from harness.plan.model import block_parameters, embedding_parameters, parameters, parameters_without_embedding

FP32 = 4
COMPUTE_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank in a step.

    compute_copies: parameters gathered (fsdp) or cast (ddp) for the products, beside the stored fp32 ones.
    gradients_last: whether backward frees activations as it makes gradients, so that the two never stand together.
    """

    parameters: int
    gradients: int
    optimizer: int
    compute_copies: int
    activations: int
    logits: int
    gradients_last: bool

    @property
    def total(self) -> int:
        """Bytes at the peak of a step."""
        passing, gradients = self.activations + self.logits, self.gradients
        peak = max(passing, gradients) if self.gradients_last else passing + gradients
        return self.parameters + self.optimizer + self.compute_copies + peak


def estimate(config: Config, data_parallel: int) -> Memory:
    """The memory of one of `data_parallel` ranks.

    Parameters and gradients take 4 bytes each and AdamW's two moments 8, divided by the ranks with fsdp (as in
    ZeRO stage 3, arXiv:1910.02054, section 5). ddp's gradients are views of its buckets and stay allocated; fsdp's
    come into being as backward goes, but for those that accumulate. A compiled loss keeps the logits and their
    gradient in the compute type; otherwise there are three fp32 copies.
    """
    model = config.model
    stored = -(-parameters(model) // (data_parallel if config.parallel.kind == "fsdp" else 1))
    tokens = config.local_batch * config.seq_len
    size = COMPUTE_BYTES[config.precision.compute]
    return Memory(
        parameters=FP32 * stored,
        gradients=FP32 * stored,
        optimizer=2 * FP32 * stored,
        compute_copies=_compute_copies(config),
        activations=tokens * _activations_per_token(config) * size,
        logits=tokens * model.vocab_size * (2 * size if config.compile else 3 * FP32),
        gradients_last=config.parallel.kind == "fsdp" and config.scaling == "weak",
    )


def _compute_copies(config: Config) -> int:
    """Bytes of the parameters that exist a second time, in the compute type, for the matrix products.

    fsdp gathers all with reshard=false, else at the peak the output projection and two blocks, the one that runs
    and the next one. ddp casts where the compute type is not fp32, and backward keeps all casts but those of
    checkpointed blocks.
    """
    model, size = config.model, COMPUTE_BYTES[config.precision.compute]
    few = embedding_parameters(model) + min(2, model.layers) * block_parameters(model)
    if config.parallel.kind == "fsdp":
        return size * (few if config.parallel.reshard else parameters(model))
    if size == FP32:
        return 0
    return size * (few if config.activation_checkpointing == "full" else parameters_without_embedding(model))


def _activations_per_token(config: Config) -> int:
    """Numbers that one token leaves behind in the forward pass for the backward pass.

    With full checkpointing each block keeps its input only, and one block at a time has all of its own again.
    """
    model, block = config.model, _block_activations(config.model, config.compile)
    head = 2 * model.dim
    if config.activation_checkpointing == "full":
        return model.layers * model.dim + block + head
    return model.layers * block + head


def _block_activations(model: Model, compiled: bool) -> int:
    """Numbers a token that one block keeps: the inputs of its operations.

    Both norms' inputs and outputs, q, k, v and the attention's output, and of SwiGLU the two inner products and
    what enters the last one; without compilation also the SiLU's output. Flash attention keeps no scores.
    """
    attention = 2 * model.heads * model.head_dim + 2 * model.kv_heads * model.head_dim
    return 4 * model.dim + attention + (3 if compiled else 4) * model.ffn_dim
