"""What degrees move in a step: activations and their gradients, between ranks that share a model or a sequence."""

from collections.abc import Iterator
from math import ceil, prod

from harness.config import Config
from harness.plan import batch
from harness.plan.activations import key_value_width, mixed_width, query_width
from harness.plan.batch import tokens
from harness.plan.model import has_experts
from harness.plan.moved_parameters import Moved
from harness.plan.parts import COMPUTE_BYTES, FP32, Share, block, head, share

INT64 = 8

LOSS_REDUCTIONS = 3
"""A token's numbers that the loss over a split vocabulary reduces: its maximum, sum of exponentials, and own logit."""


def moved_activations(config: Config, stage: int = 0) -> Iterator[Moved]:
    """What a rank of that pipeline rank moves of activations and their gradients."""
    parallel, own = config.parallel, share(config.model, config.parallel, stage)
    if parallel.tp > 1:
        yield from _tensor(config, own)
    if parallel.cp > 1:
        yield from _context(config, own)
    if parallel.pp > 1:
        yield from _pipeline(config, own)
    if parallel.ep > 1:
        yield from _experts(config, own)
    if config.model.experts and config.model.balance != "none":
        yield from _balance(config, own)


def _tensor(config: Config, own: Share) -> Iterator[Moved]:
    """Tensor parallelism with split sequences (arXiv:2205.05198).

    Each layer gathers the sequence and scatters sums, and so does backward; the embedding only scatters, the head
    only gathers. Recomputation stops before a block's last sum, but for blocks that are one compiled graph. Routers
    give their choices to all. Once a step the shards of gradients are summed of parameters that all ranks have whole.
    """
    model, tp, size = config.model, config.parallel.tp, COMPUTE_BYTES[config.precision.compute]
    count, many = batch.accumulation(config), tokens(config)
    blocks, again = len(own.blocks), config.activation_checkpointing == "full"
    layers, stream = 2 * blocks, many * model.dim * size
    ends = own.embedding + own.head
    yield Moved("tp", tp, "all_gather", stream, count * (2 * layers + ends + again * layers))
    in_one = sum(is_one_graph(config, index) for index in own.blocks)
    yield Moved("tp", tp, "reduce_scatter", stream, count * (2 * layers + ends + again * (blocks + in_one)))
    if own.head:
        yield Moved("tp", tp, "all_reduce", many * FP32, count * LOSS_REDUCTIONS)
    routers, forwards = sum(has_experts(model, index) for index in own.blocks), count * (1 + again)
    choices = many * model.experts_per_token
    yield Moved("tp", tp, "all_gather", choices * size, routers * forwards)
    yield Moved("tp", tp, "all_gather", choices * INT64, routers * forwards)
    yield Moved("tp", tp, "reduce_scatter", choices * size, routers * count)
    shards = batch.shards(config) * config.parallel.cp
    whole = [parameter for index in own.blocks for parameter in block(model, index)] + (head(model) if own.head else [])
    for parameter in whole:
        if parameter.split is None:
            first, *rest = parameter.sizes
            yield Moved("tp", tp, "all_reduce", ceil(first / shards) * prod(rest) * FP32, 1)


def is_one_graph(config: Config, index: int) -> bool:
    """Whether a block compiles in one piece: not where the host has to read how many tokens experts take."""
    reads = config.parallel.ep > 1 or config.precision.compute == "fp32"
    return config.compile and not (has_experts(config.model, index) and reads)


def _context(config: Config, own: Share) -> Iterator[Moved]:
    """Keys and values of all gathered, their gradients scattered; or sequence exchanged for heads and back."""
    model, parallel, size = config.model, config.parallel, COMPUTE_BYTES[config.precision.compute]
    calls = len(own.blocks) * batch.accumulation(config)
    forwards = calls * (2 if config.activation_checkpointing == "full" else 1)
    each = tokens(config) // parallel.tp * size
    keys = key_value_width(model) * each
    if parallel.context == "all_gather":
        yield Moved("cp", parallel.cp, "all_gather", keys * parallel.cp, forwards)
        yield Moved("cp", parallel.cp, "reduce_scatter", keys * parallel.cp, calls)
        return
    for sent in (keys + query_width(model) * each, mixed_width(model) * each):
        yield Moved("cp", parallel.cp, "all_to_all", sent, forwards + calls)


def _pipeline(config: Config, own: Share) -> Iterator[Moved]:
    """A stage sends its stream to the next one, and the gradient of what it got back; the first one got none."""
    model, parallel = config.model, config.parallel
    stream = tokens(config) // parallel.tp * model.dim * COMPUTE_BYTES[config.precision.compute]
    sends = 2 * parallel.virtual_stages - own.embedding - own.head
    yield Moved("pp", parallel.pp, "send_recv", stream, sends * batch.accumulation(config))


def _experts(config: Config, own: Share) -> Iterator[Moved]:
    """Tokens to their experts and back, and their gradients; sizes are those of an even load."""
    model, parallel = config.model, config.parallel
    backwards = batch.accumulation(config) * sum(has_experts(model, index) for index in own.blocks)
    forwards = backwards * (2 if config.activation_checkpointing == "full" else 1)
    rows = tokens(config) * model.experts_per_token
    sent = rows * model.dim * COMPUTE_BYTES[config.precision.compute]
    # ranks that share sequences and no more are one group with those that share experts
    label = "cp" if parallel.ep == parallel.cp else "ep"
    yield Moved(label, parallel.ep, "all_to_all", sent, 2 * forwards + 2 * backwards, uneven=True)
    # how many rows come is told first
    yield Moved(label, parallel.ep, "all_to_all", model.experts * INT64, forwards)


def _balance(config: Config, own: Share) -> Iterator[Moved]:
    """How many tokens experts took: of a sequence over the ranks that share it, or of a step over those of a stage."""
    model, parallel = config.model, config.parallel
    routers = sum(has_experts(model, index) for index in own.blocks)
    if model.balance == "bias":
        ranks = batch.data_parallel(config) * parallel.cp * parallel.tp
        label = "stage" if parallel.tp > 1 else "dp"
        yield Moved(label, ranks, "all_reduce", routers * model.experts * INT64, 1)
        return
    forwards = routers * batch.accumulation(config) * (2 if config.activation_checkpointing == "full" else 1)
    for label in ("tp", "cp"):
        counts = config.local_batch * model.experts * INT64
        yield Moved(label, getattr(parallel, label), "all_reduce", counts, forwards)
