"""Ranks that train, write checkpoints as a point does, and go on from them."""

import time
from pathlib import Path

import tiny_training as tiny
import torch
import torch.distributed as dist

from harness.config import Checkpoint
from harness.parallel.strategy import Strategy
from harness.training.checkpoint import Checkpoints

CPU = torch.device("cpu")
SAVED = 3
"""The step that checkpoints are written after."""

OF = {"model.layers": 2, "optimizer.state": "fp32"}
MOST = 100
"""What checkpoints are of, and how many steps their point has."""

Case = tuple[str, dict]
"""A strategy's kind, and how it is built."""


def opened(trained: Strategy, folder: Path, mode: str = "sync", keep: int = 2) -> tuple[Checkpoints, list[dict]]:
    """The checkpoints of a folder, and what they tell."""
    told: list[dict] = []
    chosen = Checkpoint("steps", "steps", 1, mode, keep)

    def tell(kind: str, **record) -> None:
        told.append({"kind": kind, **record})

    return Checkpoints(folder, chosen, trained, tell, OF, MOST), told


def steps(trained: Strategy, numbers: range, accumulation: int = 1):
    """Train the steps; after each its number, and its loss (mean over ranks) and gradient norm."""
    batches = tiny.data(*trained.coordinates, accumulation, CPU)
    for step in numbers:
        loss = trained.forward_backward(batches.batch(step))
        norm = trained.update(tiny.LR)
        dist.all_reduce(loss)
        yield step, (loss.item() / dist.get_world_size(), norm.item())


def build(case: Case) -> tuple[Strategy, int]:
    kind, how = case
    accumulation = how.get("microbatches", 1)
    return tiny.build(kind, CPU, **how), accumulation


def saved(cases: dict[str, Case], root: str, mode: str = "sync") -> dict[str, list[tuple[float, float]]]:
    """Train each case to the end, with a checkpoint after step SAVED in a folder by its name."""
    told = {}
    for name, case in cases.items():
        trained, accumulation = build(case)
        checkpoints, _ = opened(trained, Path(root) / name, mode)
        told[name] = []
        for step, numbers in steps(trained, range(1, tiny.STEPS + 1), accumulation):
            told[name].append(numbers)
            if step == SAVED:
                checkpoints.write(step)
        checkpoints.wait()
        assert checkpoints.error is None, checkpoints.error
    return told


def resumed(cases: list[tuple[str, Case]], root: str) -> list[list[tuple[float, float]]]:
    """What each case, going on from the checkpoint in the folder of a name, trains then."""
    told = []
    for name, case in cases:
        trained, accumulation = build(case)
        step = opened(trained, Path(root) / name)[0].restore()
        assert step == SAVED, step
        told.append([numbers for _, numbers in steps(trained, range(step + 1, tiny.STEPS + 1), accumulation)])
    return told


def keep_writing(root: str, mode: str, most: int) -> None:
    """Train, and write a checkpoint after every step, until killed; each is noted when it is told of."""
    trained, _ = build(("fsdp", {}))
    checkpoints, told = opened(trained, Path(root) / "checkpoints", mode)
    for step, _ in steps(trained, range(1, most + 1)):
        checkpoints.write(step)
        if dist.get_rank() == 0:
            (Path(root) / "told").write_text(str(max((record["step"] for record in told), default=0)))
    time.sleep(60)


def go_on(root: str) -> tuple[int, tuple[float, float]]:
    """The step that the newest checkpoint stands after, and the numbers of the next one."""
    trained, _ = build(("fsdp", {}))
    step = opened(trained, Path(root) / "checkpoints")[0].restore()
    [(_, numbers)] = steps(trained, range(step + 1, step + 2))
    return step, numbers


def numbers_of(most: int) -> list[tuple[float, float]]:
    """The numbers of the steps of a training that nothing interrupts."""
    trained, _ = build(("fsdp", {}))
    return [numbers for _, numbers in steps(trained, range(1, most + 1))]
