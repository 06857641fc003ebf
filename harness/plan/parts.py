"""A model's parameters one by one: their sizes, and which of their dimensions degrees split."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, prod

from harness.config import Model, Parallel
from harness.plan.model import has_experts
from harness.plan.stages import layers_of, stages_of

FP32 = 4
COMPUTE_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Parameter:
    """One parameter. split: the dimension that tp splits, or None; routed: whether ep splits the first."""

    sizes: tuple[int, ...]
    split: int | None = None
    routed: bool = False

    def held(self, parallel: Parallel) -> tuple[int, ...]:
        """Its sizes on one rank, before data parallelism splits it further."""
        sizes = list(self.sizes)
        if self.split is not None:
            sizes[self.split] //= parallel.tp
        if self.routed:
            sizes[0] //= parallel.ep
        return tuple(sizes)


@dataclass(frozen=True)
class Share:
    """What one pipeline rank has of a model: the numbers of its blocks, and whether the embedding and the head."""

    blocks: tuple[int, ...]
    embedding: bool
    head: bool


def share(model: Model, parallel: Parallel, rank: int = 0) -> Share:
    """What one of the parallel.pp ranks has; without a pipeline that is all."""
    stages = parallel.pp * parallel.virtual_stages
    blocks = layers_of(model.layers, stages)
    own = stages_of(rank, parallel.pp, parallel.virtual_stages)
    return Share(tuple(index for stage in own for index in blocks[stage]), 0 in own, stages - 1 in own)


def embedding(model: Model) -> list[Parameter]:
    return [Parameter((model.vocab_size, model.dim), 0)]


def head(model: Model) -> list[Parameter]:
    """The last norm and the output projection, unless that is the embedding."""
    return [Parameter((model.dim,)), *([] if model.tied_embeddings else embedding(model))]


def block(model: Model, index: int) -> list[Parameter]:
    """A block's parameters, those of its routed experts left out."""
    router = [Parameter((model.experts, model.dim))] if has_experts(model, index) else []
    return [*[Parameter((model.dim,))] * 2, *projections(model, index), *router]


def projections(model: Model, index: int) -> list[Parameter]:
    """The parameters of a block's attention and of the feed-forward that takes every token."""
    hidden = model.shared_experts * model.expert_ffn_dim if has_experts(model, index) else model.ffn_dim
    return [*_attention(model), *(_feed_forward(model.dim, hidden) if hidden else [])]


def routed(model: Model, index: int) -> list[Parameter]:
    """The parameters of a block's routed experts; none where it has none."""
    if not has_experts(model, index):
        return []
    inner, outer = (model.experts, model.expert_ffn_dim, model.dim), (model.experts, model.dim, model.expert_ffn_dim)
    return [Parameter(inner, 1, True), Parameter(outer, 2, True), Parameter(inner, 1, True)]


def held(model: Model, share: Share) -> list[Parameter]:
    """All parameters of a share."""
    found = [*(embedding(model) if share.embedding else []), *(head(model) if share.head else [])]
    for index in share.blocks:
        found += block(model, index) + routed(model, index)
    return found


def numbers(parameters: Iterable[Parameter], parallel: Parallel) -> int:
    """How many numbers of them one rank holds, before data parallelism splits them further."""
    return sum(prod(parameter.held(parallel)) for parameter in parameters)


def padded(parameters: Iterable[Parameter], parallel: Parallel, ranks: int) -> int:
    """The same, as fully_shard moves them: the first dimension of each rounded up to a multiple of `ranks`.

    Experts are split along another dimension where that one divides, and then need no rounding.
    """
    found = 0
    for parameter in parameters:
        first, *rest = held = parameter.held(parallel)
        even = parameter.routed and any(size % ranks == 0 for size in held)
        found += prod(held) if even else ceil(first / ranks) * ranks * prod(rest)
    return found


def _attention(model: Model) -> list[Parameter]:
    dim, heads, rank = model.dim, model.heads, model.kv_lora_rank
    if not rank:
        query, key = heads * model.head_dim, model.kv_heads * model.head_dim
        return [Parameter((query, dim), 0), *[Parameter((key, dim), 0)] * 2, Parameter((dim, query), 1)]
    return [
        Parameter((heads * (model.head_dim + model.rope_head_dim), dim), 0),
        Parameter((rank + model.rope_head_dim, dim)),
        Parameter((rank,)),
        Parameter((heads * (model.head_dim + model.v_head_dim), rank), 0),
        Parameter((dim, heads * model.v_head_dim), 1),
    ]


def _feed_forward(dim: int, hidden: int) -> list[Parameter]:
    return [Parameter((hidden, dim), 0), Parameter((dim, hidden), 1), Parameter((hidden, dim), 0)]
