"""The training loop without a strategy: one module in one process, every step written out."""

import torch

from harness.models.transformer import Transformer, cross_entropy
from harness.parity.compare import Told
from harness.training.data import Source


def train_bare(
    model: Transformer,
    batches: Source,
    *,
    steps: int,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    grad_clip: float,
) -> Told:
    """Train for `steps` steps of one microbatch each, at a constant learning rate; norms are summed in fp64."""
    parameters = list(model.parameters())
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    vectors = [parameter for parameter in parameters if parameter.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=lr,
        betas=betas,
    )
    told = Told([], [])
    for step in range(1, steps + 1):
        ((tokens, targets),) = batches.batch(step)
        loss = cross_entropy(model(tokens), targets)
        optimizer.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.stack([gradient.double().square().sum() for gradient in gradients]).sum().sqrt().item()
        for gradient in gradients:
            gradient.mul_(min(1.0, grad_clip / (norm + 1e-6)))
        optimizer.step()
        model.balance()
        told.losses.append(loss.item())
        told.norms.append(norm)
    return told
