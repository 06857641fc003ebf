"""Training with the recorder attached, as the worker attaches it."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import tiny_training as tiny
import torch

from harness.parallel.strategy import Strategy
from harness.recorder.clock import CudaClock, HostClock
from harness.recorder.cuda import CudaSampler
from harness.recorder.events import EventWriter
from harness.recorder.exchange import Exchange
from harness.recorder.gloo import GlooSampler
from harness.recorder.nodes import node_file
from harness.recorder.progress import Progress
from harness.recorder.recorder import Recorder
from harness.recorder.samples import Samples
from harness.training.between import Between
from harness.training.loop import train

STEPS, WARMUP, EVERY = 23, 3, 10
CAPACITY = 1000
"""More operations than any step here has."""


class SlowToStart:
    """A source that keeps the ranks waiting for each batch."""

    def __init__(self, batches, seconds):
        self.batches, self.seconds = batches, seconds

    def batch(self, step):
        time.sleep(self.seconds)
        return self.batches.batch(step)


class Pausing:
    """An observer that lets the recorder pause after some steps: step → seconds."""

    def __init__(self, recorder, pauses):
        self.recorder, self.pauses = recorder, pauses

    def __getattr__(self, name):
        return getattr(self.recorder, name)

    def step_done(self, step, *rest):
        self.recorder.step_done(step, *rest)
        if step in self.pauses:
            with self.recorder.pause("checkpoint_stall"):
                time.sleep(self.pauses[step])


def recorded(
    kind: str,
    folder: str,
    data_s: float = 0.0,
    lr: float = 1e-3,
    accumulation: int = 1,
    how: dict | None = None,
    every: int = EVERY,
    spoil: Callable[[Strategy], None] | None = None,
    pauses: dict[int, float] | None = None,
    between: Callable[[Strategy, Recorder], Between] | None = None,
) -> tuple[float, int]:
    """Train with the recorder, the strategy built as `how` says, with pauses after some steps.

    `spoil` is called with the strategy before the first step; `between` makes what lies between steps. Returns the wall
    seconds of the loop between two synchronisations, and the bytes of all gradients of this rank's parts.
    """
    rank = torch.distributed.get_rank()
    cuda = torch.distributed.get_backend() == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    trained = tiny.build(kind, device, microbatches=accumulation, **(how or {}))
    if spoil is not None:
        spoil(trained)
    batches = tiny.data(*trained.coordinates, accumulation, device)
    writer = EventWriter(Path(folder) / "events.jsonl", 0) if rank == 0 else None
    node = EventWriter(node_file(Path(folder), 0, "host0"), 0)
    exchange, labels = Exchange(device), trained.mesh.labels
    recorder = Recorder(
        clock=CudaClock() if cuda else HostClock(),
        sampler=CudaSampler(labels) if cuda else GlooSampler(labels),
        exchange=exchange,
        samples=Samples(exchange, labels, CAPACITY, rank, writer, node),
        writer=writer,
        device=device,
        warmup=WARMUP,
        steps=STEPS,
        sample_every=every,
        tokens_per_step=tiny.SEQUENCES * tiny.SEQ,
        compiled=trained.options.compile,
        progress=Progress(Path(folder) / "progress.json", 0, "model_build") if rank == 0 else None,
    )
    gap = between(trained, recorder) if between is not None else Between(STEPS)
    recorder.begin_at(gap.first, gap)
    if cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    try:
        train(
            trained,
            SlowToStart(batches, data_s),
            lambda step: lr,
            Pausing(recorder, pauses or {}),
            gap,
        )
    finally:
        wall = time.perf_counter() - begin
        node.close()
        if writer is not None:
            writer.close()
    return wall, sum(p.numel() * 4 for p in trained.model.parameters())


def records(folder: Path, kind: str | None = None, file: str = "events.jsonl") -> list[dict]:
    everything = [json.loads(line) for line in (folder / file).read_text().splitlines()]
    return [record for record in everything if kind in (None, record["kind"])]


def samples(folder: Path) -> list[dict]:
    """What every rank wrote of its sampled steps."""
    return records(folder, "sample", "nodes/000/host0.jsonl")
