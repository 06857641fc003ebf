"""A few steps of a small model: through a strategy, and as the bare module in one process."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from harness.models.initialize import initialize
from harness.models.transformer import Transformer, cross_entropy
from harness.parallel.mesh import build_mesh
from harness.parallel.registry import strategy
from harness.parallel.strategy import Options, Strategy
from harness.training.data import source

SHAPE = {
    "dim": 64,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "ffn_dim": 160,
    "vocab_size": 256,
    "rope_theta": 10000.0,
    "norm_eps": 1e-5,
    "tied_embeddings": False,
}
STEPS, LR, SEED, SEQUENCES, SEQ = 5, 3e-4, 7, 8, 64


def options(**changes: Any) -> Options:
    plain: dict[str, Any] = {
        "compute": torch.float32,
        "compile": False,
        "activation_checkpointing": False,
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


def build(kind: type[Strategy] | str, device: torch.device, tied: bool = False, **changes: Any) -> Strategy:
    chosen = options(**changes)
    with torch.device("meta"):
        model = Transformer(**{**SHAPE, "tied_embeddings": tied}, compute=chosen.compute)
    built = strategy(kind) if isinstance(kind, str) else kind
    mesh = build_mesh(device.type, torch.distributed.get_world_size())
    filler = partial(initialize, layers=SHAPE["layers"], seed=SEED, device=device)
    return built(model, cross_entropy, mesh, device, chosen, filler)


def through_strategy(
    kind: type[Strategy] | str, accumulation: int = 1, spoil: Callable[[Strategy], None] | None = None, **how: Any
) -> list[tuple[float, float]]:
    """Losses (mean over ranks) and gradient norms of the steps; `spoil` is called before each update."""
    device = torch.device("cpu")
    trained = build(kind, device, **how)
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


def bare(tied: bool = False) -> list[tuple[float, float]]:
    """The same steps by the module alone: no strategy, no process group's help, clipping written out."""
    model = Transformer(**{**SHAPE, "tied_embeddings": tied})
    initialize(model, SHAPE["layers"], SEED, torch.device("cpu"))
    parameters = list(model.parameters())
    matrices, vectors = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=LR, betas=(0.9, 0.95)
    )
    batches = data(0, 1, 1, torch.device("cpu"))
    told = []
    for step in range(1, STEPS + 1):
        ((tokens, targets),) = batches.batch(step)
        loss = cross_entropy(model(tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((p.grad.double() ** 2).sum() for p in parameters))
        scale = min(1.0, 1.0 / (norm.item() + 1e-6))
        for p in parameters:
            p.grad.mul_(scale)
        optimizer.step()
        told.append((loss.item(), norm.item()))
    return told
