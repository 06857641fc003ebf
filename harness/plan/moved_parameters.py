"""What data parallelism moves in a step: gathered parameters and reduced gradients."""

from collections.abc import Iterator
from dataclasses import dataclass

from harness.config import Config
from harness.plan import batch
from harness.plan.parts import (
    COMPUTE_BYTES,
    FP32,
    Parameter,
    Share,
    block,
    embedding,
    head,
    held,
    numbers,
    padded,
    routed,
    share,
)


@dataclass(frozen=True)
class Moved:
    """Calls of one operation over the group of that label and size, `bytes` each by nccl-tests' convention."""

    group: str
    ranks: int
    op: str
    bytes: int
    count: int


def moved_parameters(config: Config, stage: int = 0) -> Iterator[Moved]:
    """What a rank of that pipeline rank moves of parameters and their gradients; ddp's buckets count as one call."""
    own = share(config.model, config.parallel, stage)
    if config.parallel.kind == "ddp":
        ranks = batch.data_parallel(config) * config.parallel.cp
        yield Moved("dp", ranks, "all_reduce", FP32 * numbers(held(config.model, own), config.parallel), 1)
    elif config.parallel.kind in ("fsdp", "hsdp"):
        yield from _fsdp(config, own)


def _fsdp(config: Config, own: Share) -> Iterator[Moved]:
    """fully_shard's groups: the embedding, each block, the head, and experts that have ranks of their own.

    Each gathers in forward and, unless it keeps what it has, again in backward, once a microbatch; a pipeline keeps
    all over a step. Gradients are scattered in fp32 at the last microbatch; copies add up their shards.
    """
    model, parallel = config.model, config.parallel
    everywhere = "dp" if parallel.replicas == 1 else "dp_shard"
    ranks, expert_ranks = batch.shards(config) * parallel.cp, batch.shards(config) * parallel.cp // parallel.ep
    groups: list[tuple[str, int, list[Parameter], bool]] = []
    for index in own.blocks:
        together = block(model, index)
        if parallel.ep > 1:
            groups.append(("edp", expert_ranks, routed(model, index), parallel.reshard))
        else:
            together += routed(model, index)
        groups.append((everywhere, ranks, together, parallel.reshard))
    if model.tied_embeddings:
        groups.append((everywhere, ranks, embedding(model) + head(model), False))
    else:
        groups += [(everywhere, ranks, embedding(model), parallel.reshard)] if own.embedding else []
        groups += [(everywhere, ranks, head(model), False)] if own.head else []
    microbatches = batch.accumulation(config)
    for label, size, parameters, freed in groups:
        count = padded(parameters, parallel, size)
        gathers = 1 if parallel.pp > 1 else microbatches * (2 if freed else 1)
        yield Moved(label, size, "all_gather", COMPUTE_BYTES[config.precision.compute] * count, gathers)
        yield Moved(label, size, "reduce_scatter", FP32 * count, 1)
        yield Moved("dp_replicate", parallel.replicas, "all_reduce", FP32 * count // size, 1)
