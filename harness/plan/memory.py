"""How much device memory one rank of a point needs, estimated before it starts.

An estimate for planning of the peak of allocated memory, fitted to 1b's; docs/measurements shows it beside every peak
measured. What the CUDA context, NCCL's buffers and fragmentation take (a few GiB) comes on top.
"""

from dataclasses import dataclass
from math import ceil

from harness.config import Config
from harness.plan import activations, batch
from harness.plan.parts import COMPUTE_BYTES, FP32, Share, block, embedding, held, numbers, routed, share
from harness.plan.schedules import in_flight
from harness.plan.stages import layers_of, stages_of
from harness.plan.strategies import KINDS


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank in a step.

    parameters: those that the optimizer steps, in fp32. reducing: gradients on their way to the shards. compute_copies:
    parameters gathered or cast for the products, beside them. gradients_last: whether backward frees activations as it
    makes gradients, so that the two never stand together.
    """

    parameters: int
    gradients: int
    reducing: int
    optimizer: int
    compute_copies: int
    activations: int
    logits: int
    gradients_last: bool

    @property
    def total(self) -> int:
        """Bytes at the peak of a step."""
        passing, gradients = self.activations + self.logits, self.gradients + self.reducing
        peak = max(passing, gradients) if self.gradients_last else passing + gradients
        return self.parameters + self.optimizer + self.compute_copies + peak


def estimate(config: Config) -> Memory:
    """The memory of one rank; of a pipeline, the rank that needs the most.

    What the kind shards is divided by the ranks that share a copy, what degrees split by them before that (as in ZeRO,
    arXiv:1910.02054, section 5): parameters and gradients take 4 bytes each and AdamW's two moments 8, or 4 in bf16.
    ddp's gradients are views of its buckets and stay allocated, and its measured peaks with NCCL are higher by as much
    again. Others come into being as backward goes, but for those that accumulate; fully_shard has those of a block
    whole before it divides them.
    """
    return max((_on(config, rank) for rank in range(config.parallel.pp)), key=lambda memory: memory.total)


def _on(config: Config, rank: int) -> Memory:
    parallel, own = config.parallel, share(config.model, config.parallel, rank)
    split, size = KINDS[parallel.kind].sharded, COMPUTE_BYTES[config.precision.compute]
    whole, shard = numbers(held(config.model, own), parallel), _shard(config, own)
    waiting = _in_flight(config, rank)
    accumulates = batch.accumulation(config) > 1
    fully_sharded = parallel.kind in ("fsdp", "hsdp")
    # fully_shard reduces at the last microbatch, and until then has whole gradients
    summed = shard if "gradients" in split and not (accumulates and fully_sharded) else whole
    largest = max(_of_blocks(config, own).values())
    return Memory(
        parameters=FP32 * (shard if "optimizer" in split else whole),
        gradients=FP32 * summed * (2 if parallel.kind == "ddp" else 1),
        reducing=FP32 * largest if fully_sharded and not accumulates else 0,
        optimizer=2 * COMPUTE_BYTES[config.optimizer.state] * (shard if "optimizer" in split else whole),
        compute_copies=size * _copies(config, own, waiting),
        activations=batch.tokens(config) * size * _kept(config, own, waiting),
        logits=_logits(config, own, waiting),
        gradients_last=parallel.kind != "ddp" and not accumulates,
    )


def _of_blocks(config: Config, own: Share) -> dict[int, int]:
    """Numbers of each block's parameters that ranks which share layers and experts leave to this one."""
    model = config.model
    return {index: numbers(block(model, index) + routed(model, index), config.parallel) for index in own.blocks}


def _shard(config: Config, own: Share) -> int:
    """Numbers of a share that one of the data ranks keeps, where they are split; experts are over fewer ranks."""
    ranks = batch.shards(config) * config.parallel.cp
    experts = [parameter for index in own.blocks for parameter in routed(config.model, index)]
    spread = numbers(experts, config.parallel)
    rest = numbers(held(config.model, own), config.parallel) - spread
    return ceil(rest / ranks) + ceil(spread * config.parallel.ep / ranks)


def _in_flight(config: Config, rank: int) -> dict[int, int]:
    """How many microbatches' activations each block of a pipeline rank holds at its peak."""
    parallel = config.parallel
    if parallel.pp == 1:
        return dict.fromkeys(range(config.model.layers), 1)
    order = (parallel.schedule, rank, parallel.pp, parallel.virtual_stages, batch.accumulation(config))
    blocks = layers_of(config.model.layers, parallel.pp * parallel.virtual_stages)
    stages = stages_of(rank, parallel.pp, parallel.virtual_stages)
    return {index: count for stage, count in zip(stages, in_flight(*order), strict=True) for index in blocks[stage]}


def _copies(config: Config, own: Share, waiting: dict[int, int]) -> int:
    """Numbers of the parameters that exist a second time, in the compute type, for the matrix products.

    fsdp gathers all with reshard=false or in a pipeline, else at the peak the output projection and two blocks, the
    one that runs and the next one; so does zero3, which keeps its shard in the compute type too. zero1 and zero2 keep
    all. ddp casts where the compute type is not fp32, and backward keeps the casts of each microbatch but those of
    checkpointed blocks.
    """
    model, parallel = config.model, config.parallel
    vocabulary = numbers(embedding(model), parallel)
    blocks = _of_blocks(config, own)
    few = vocabulary * (own.embedding or own.head) + sum(sorted(blocks.values())[-2:])
    whole = numbers(held(model, own), parallel)
    if parallel.kind in ("fsdp", "hsdp"):
        return few if parallel.reshard and parallel.pp == 1 else whole
    if parallel.kind == "zero3":
        return few + _shard(config, own)
    if parallel.kind in ("zero1", "zero2"):
        return whole
    if config.precision.compute == "fp32":
        return 0
    if config.activation_checkpointing == "full":
        return few
    outside = whole - sum(blocks.values()) - vocabulary * (own.embedding and not model.tied_embeddings)
    return outside + sum(numbers * waiting[index] for index, numbers in blocks.items())


def _kept(config: Config, own: Share, waiting: dict[int, int]) -> int:
    """Numbers a token that the forward passes of all microbatches in flight leave behind, and the buffers between
    stages, of which torch makes one a microbatch and direction."""
    parallel = config.parallel
    found = sum(activations.kept(config, index) * count for index, count in waiting.items())
    found += max(activations.recomputed(config, index) for index in own.blocks)
    if own.head:
        found += activations.head(config)
    if parallel.pp > 1:
        edges = 2 * parallel.virtual_stages - own.embedding - own.head
        found += edges * batch.accumulation(config) * activations.stream(config)
    return found


def _logits(config: Config, own: Share, waiting: dict[int, int]) -> int:
    """Bytes of the logits and what the loss makes of them.

    A compiled loss keeps the logits in the compute type, and backward makes as much of gradients; otherwise it keeps
    an fp32 copy, and two more pass by. Where the vocabulary is split torch's loss keeps an fp32 copy even compiled,
    and another passes by beside the gradients; otherwise three. Of microbatches that wait for backward the last stage
    keeps all.
    """
    if not own.head:
        return 0
    size = COMPUTE_BYTES[config.precision.compute]
    kept, passing = (size, size) if config.compile else (FP32, 2 * FP32)
    if config.parallel.tp > 1:
        kept, passing = FP32, passing + FP32
    count = batch.tokens(config) * config.model.vocab_size // config.parallel.tp
    return count * (kept * waiting[own.blocks[-1]] + passing)
