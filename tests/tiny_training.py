"""A few steps of a small model: through a strategy, and as the bare module in one process."""

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from multiprocessing import parent_process
from typing import Any

import torch
from ranks import run_ranks

from harness.models.initialize import initialize
from harness.models.transformer import Transformer, cross_entropy
from harness.parallel.mesh import Degrees, Mesh
from harness.parallel.options import Options
from harness.parallel.registry import strategy
from harness.parallel.strategy import Strategy
from harness.parity.bare import train_bare
from harness.parity.compare import LOSS_TOLERANCE, NORM_TOLERANCE
from harness.training.data import source

# what forked ranks would each import anew: DeepSpeed, and with it a compiler that they do not use
if parent_process() is None:
    for name in ("harness.parallel.zero", "deepspeed.runtime.zero.muon.original_muon", "deepspeed.moe.ep_experts"):
        import_module(name)

DENSE = {
    "dim": 64,
    "layers": 4,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "ffn_dim": 160,
    "vocab_size": 256,
    "rope_theta": 10000.0,
    "norm_eps": 1e-5,
    "tied_embeddings": False,
}
MOE = {**DENSE, "experts": 4, "experts_per_token": 2, "expert_ffn_dim": 96, "balance": "aux", "balance_rate": 0.01}
MLA = {
    **DENSE,
    "kv_heads": 4,
    "kv_lora_rank": 32,
    "rope_head_dim": 8,
    "v_head_dim": 24,
    "experts": 4,
    "experts_per_token": 2,
    "expert_ffn_dim": 48,
    "shared_experts": 1,
    "dense_layers": 1,
    "normalise_routes": False,
    "balance": "bias",
    "balance_rate": 0.001,
}
SHAPES = {"dense": DENSE, "moe": MOE, "mla": MLA}
"""Every kind of model: what holds for one is tested for all."""

SPECIAL = {
    # four ranks need four heads
    "dense_4": {**DENSE, "kv_heads": 4},
    "moe_4": {**MOE, "kv_heads": 4},
    # nothing divides by two and two ranks alike
    "uneven": MLA
    | {"dim": 65, "ffn_dim": 162, "vocab_size": 258, "kv_lora_rank": 31, "experts": 5, "expert_ffn_dim": 94},
    # fewer experts on a rank than ranks that hold the same ones
    "few": {**MOE, "experts": 2, "experts_per_token": 1},
    "eight_layers": {**DENSE, "layers": 8},
    "five_layers": {**DENSE, "layers": 5},
    # a head larger than a block, which changes what DeepSpeed prefetches
    "wide": {**DENSE, "vocab_size": 1300},
    "mla_wide": {**MLA, "vocab_size": 1300},
    "one_layer": {**DENSE, "layers": 1},
}
"""Models that single tests ask for by name."""

STEPS, LR, SEED, SEQUENCES, SEQ = 5, 3e-4, 7, 8, 64


def sizes(shape: str = "dense", tied: bool = False) -> dict[str, Any]:
    """What Transformer is told of a shape."""
    return {**(SHAPES | SPECIAL)[shape], "tied_embeddings": tied}


def options(**changes: Any) -> Options:
    plain: dict[str, Any] = {
        "compute": torch.float32,
        "compile": False,
        "checkpointing": "none",
        "reshard": True,
        "betas": (0.9, 0.95),
        "weight_decay": 0.1,
        "grad_clip": 1.0,
    }
    return Options(**{**plain, **changes})


def data(rank: int, ranks: int, accumulation: int, device: torch.device, kind: str = "bytes"):
    """`SEQUENCES` sequences a step, shared out."""
    return source(
        kind,
        path=None,
        dtype="uint16",
        vocab_size=256,
        device=device,
        rank=rank,
        ranks=ranks,
        local_batch=SEQUENCES // ranks // accumulation,
        accumulation=accumulation,
        seq=SEQ,
        seed=SEED,
    )


def build(
    kind: type[Strategy] | str,
    device: torch.device,
    degrees: dict[str, int] | None = None,
    shape: str = "dense",
    tied: bool = False,
    **changes: Any,
) -> Strategy:
    """A strategy over all ranks: those that `degrees` does not take share the model and train on different data."""
    chosen, fields = options(**changes), sizes(shape, tied)
    with torch.device("meta"):
        model = Transformer(**fields, compute=chosen.compute)
    built = strategy(kind) if isinstance(kind, str) else kind
    given = Degrees(**(degrees or {}))
    shard = torch.distributed.get_world_size() // (given.replicas * given.cp * given.tp * given.pp)
    mesh = Mesh(device.type, Degrees(**{**(degrees or {}), "shard": shard}))
    filler = partial(initialize, layers=fields["layers"], seed=SEED, device=device)
    return built(model, cross_entropy, mesh, device, chosen, filler)


def through_strategy(
    kind: type[Strategy] | str, accumulation: int = 1, spoil: Callable[[Strategy], None] | None = None, **how: Any
) -> list[tuple[float, float]]:
    """Losses (mean over ranks) and gradient norms of the steps; `spoil` is called before each update."""
    device = torch.device("cpu")
    trained = build(kind, device, microbatches=accumulation, **how)
    batches = data(*trained.coordinates, accumulation, device)
    told = []
    for step in range(1, STEPS + 1):
        loss = trained.forward_backward(batches.batch(step))
        if spoil is not None:
            spoil(trained)
        norm = trained.update(LR)
        torch.distributed.all_reduce(loss)
        told.append((loss.item() / torch.distributed.get_world_size(), norm.item()))
    return told


def bare(shape: str = "dense", tied: bool = False) -> list[tuple[float, float]]:
    """The same steps by the module alone: no strategy, no process group's help."""
    fields = sizes(shape, tied)
    model = Transformer(**fields)
    initialize(model, fields["layers"], SEED, torch.device("cpu"))
    how = {"betas": (0.9, 0.95), "weight_decay": 0.1, "grad_clip": 1.0}
    told = train_bare(model, data(0, 1, 1, torch.device("cpu")), steps=STEPS, lr=LR, **how)
    return list(zip(told.losses, told.norms, strict=True))


@cache
def reference(shape: str = "dense", tied: bool = False) -> list[tuple[float, float]]:
    """What the bare module tells, which trains once for all tests."""
    return run_ranks(1, bare, shape, tied)[0]


def agree(told, reference) -> bool:
    """Whether losses and gradient norms are as good as equal, step by step."""
    return all(
        abs(loss - wanted_loss) <= LOSS_TOLERANCE and abs(norm - wanted_norm) <= NORM_TOLERANCE * wanted_norm
        for (loss, norm), (wanted_loss, wanted_norm) in zip(told, reference, strict=True)
    )
