"""What data parallelism moves in a step: gathered parameters and reduced gradients."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil, prod

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
from harness.plan.prefetch import prefetched
from harness.plan.strategies import KINDS


@dataclass(frozen=True)
class Moved:
    """Calls of one operation over the group of that label and size, `bytes` each by nccl-tests' convention.

    uneven: whether sizes differ from rank to rank and step to step; `bytes` are those of even shares then.
    """

    group: str
    ranks: int
    op: str
    bytes: int
    count: int
    uneven: bool = False


def moved_parameters(config: Config, stage: int = 0) -> Iterator[Moved]:
    """What a rank of that pipeline rank moves of parameters and their gradients; ddp's buckets count as one call.

    Of other kinds nothing is known.
    """
    own = share(config.model, config.parallel, stage)
    if config.parallel.kind == "ddp":
        ranks = batch.data_parallel(config) * config.parallel.cp
        yield Moved("dp", ranks, "all_reduce", FP32 * numbers(held(config.model, own), config.parallel), 1)
    elif config.parallel.kind in ("fsdp", "hsdp"):
        yield from _fsdp(config, own)
    elif config.parallel.kind in ("zero1", "zero2"):
        yield from _zero(config)
    elif config.parallel.kind == "zero3":
        yield from _zero3(config)


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


def _zero(config: Config) -> Iterator[Moved]:
    """DeepSpeed's stages 1 and 2: all gradients are all-reduced in fp32, at the last microbatch or at each.

    After the step all gather the parameters, those that decay and those that do not as one tensor each, whose length is
    a multiple of twice the ranks.
    """
    model, ranks, size = config.model, batch.data_parallel(config), COMPUTE_BYTES[config.precision.compute]
    whole = held(model, share(model, config.parallel))
    times = batch.accumulation(config) if "gradients" in KINDS[config.parallel.kind].sharded else 1
    yield Moved("dp", ranks, "all_reduce", FP32 * numbers(whole, config.parallel), times)
    matrices = [parameter for parameter in whole if len(parameter.sizes) > 1]
    vectors = [parameter for parameter in whole if len(parameter.sizes) == 1]
    for tensor in (matrices, vectors) if config.optimizer.weight_decay else (whole,):
        length = ceil(numbers(tensor, config.parallel) / (2 * ranks)) * 2 * ranks
        yield Moved("dp", ranks, "all_gather", size * length, 1)


def _zero3(config: Config) -> Iterator[Moved]:
    """DeepSpeed's stage 3: parameters are gathered for forward and again for backward, as harness.plan.prefetch tells.

    Their gradients are scattered at each microbatch.
    """
    model, ranks, times = config.model, batch.data_parallel(config), batch.accumulation(config)
    own = share(model, config.parallel)
    blocks = [block(model, index) + routed(model, index) for index in own.blocks]
    modules = [
        [(number, place, length) for place, length in enumerate(sorted(prod(one.sizes) for one in module))]
        for number, module in enumerate([embedding(model), *blocks, *([one] for one in head(model))])
    ]
    if model.tied_embeddings:
        modules.append(modules[0])
    for together in prefetched(modules):
        length = _flat((length for *_, length in together), ranks)
        yield Moved("dp", ranks, "all_gather", COMPUTE_BYTES[config.precision.compute] * length, times)
    scattered = _flat((prod(one.sizes) for one in held(model, own)), ranks)
    yield Moved("dp", ranks, "reduce_scatter", FP32 * scattered, times)


def _flat(lengths: Iterable[int], ranks: int) -> int:
    """Their sum, each rounded up to a multiple of `ranks`, as DeepSpeed splits parameters."""
    return sum(ceil(length / ranks) * ranks for length in lengths)
