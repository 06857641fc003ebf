"""The training loop: the load that everything else measures."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from harness.parallel.strategy import Strategy
from harness.training.between import Between
from harness.training.data import Source


class Observer(Protocol):
    """What may look on: called on every rank, on the thread that trains."""

    def before_first_step(self) -> None: ...

    def data_ready(self, step: int) -> None: ...

    def step_done(self, step: int, lr: float, loss: Tensor, grad_norm: Tensor) -> None: ...

    def after_last_step(self) -> None: ...


def train(strategy: Strategy, data: Source, rate: Callable[[int], float], observer: Observer, between: Between) -> None:
    """Train the steps that are left; losses and gradient norms stay on the device, for the observer to fetch."""
    observer.before_first_step()
    for step in range(between.first, between.steps + 1):
        microbatches = data.batch(step)
        observer.data_ready(step)
        loss = strategy.forward_backward(microbatches)
        lr = rate(step)
        grad_norm = strategy.update(lr)
        observer.step_done(step, lr, loss, grad_norm)
        if between.ends_after(step):
            break
    between.settle()
    observer.after_last_step()
    between.close()
