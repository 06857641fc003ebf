"""A point's training, as its configuration asks for it: the arrangement of ranks, the strategy, the data, the steps."""

import dataclasses
import gc
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from harness.config import Config
from harness.models.attention import attention_kernels
from harness.models.initialize import initialize
from harness.models.transformer import Transformer, cross_entropy
from harness.parallel.mesh import Degrees, Mesh
from harness.parallel.options import TYPES, Options
from harness.parallel.registry import strategy
from harness.parallel.strategy import Strategy
from harness.plan.batch import accumulation, data_parallel
from harness.training.between import Between, Pause
from harness.training.checkpoint import Checkpoints, Tell
from harness.training.data import Source, source
from harness.training.interval import Interval
from harness.training.loop import Observer, train
from harness.training.schedule import cosine
from harness.training.stop import Stop


def arranged(config: Config) -> Degrees:
    """The point's degrees; data ranks that are no copies share one."""
    parallel = config.parallel
    shard = data_parallel(config) // parallel.replicas
    return Degrees(parallel.replicas, shard, parallel.cp, parallel.tp, parallel.pp, parallel.ep)


def build(config: Config, mesh: Mesh, device: torch.device) -> Strategy:
    """The point's model, spread by the point's strategy."""
    shape = dataclasses.asdict(config.model)
    shape.pop("name")
    compute = TYPES[config.precision.compute]
    with torch.device("meta"):
        model = Transformer(**shape, compute=compute, kernel=config.attention)
    options = Options(
        compute=compute,
        compile=config.compile,
        checkpointing=config.activation_checkpointing,
        reshard=config.parallel.reshard,
        betas=(config.optimizer.beta1, config.optimizer.beta2),
        weight_decay=config.optimizer.weight_decay,
        grad_clip=config.optimizer.grad_clip,
        microbatches=accumulation(config),
        schedule=config.parallel.schedule,
        virtual_stages=config.parallel.virtual_stages,
        context=config.parallel.context,
        float8=config.precision.float8,
        state=TYPES[config.optimizer.state],
    )
    initialise = partial(initialize, layers=config.model.layers, seed=config.seed, device=device)
    return strategy(config.parallel.kind)(model, cross_entropy, mesh, device, options, initialise)


def open_data(config: Config, trained: Strategy, device: torch.device) -> Source:
    """The point's data, this rank's part of it."""
    rank, ranks = trained.coordinates
    return source(
        config.data.kind,
        path=config.data.path,
        dtype=config.data.dtype,
        vocab_size=config.model.vocab_size,
        device=device,
        rank=rank,
        ranks=ranks,
        local_batch=config.local_batch,
        accumulation=accumulation(config),
        seq=config.seq_len,
        seed=config.seed,
    )


def settle() -> None:
    """Tell the garbage collector that what stands now stays to the end, and need not be looked at again."""
    gc.collect()
    gc.freeze()


def open_between(config: Config, run_dir: Path, trained: Strategy, stop: Stop, pause: Pause, tell: Tell) -> Between:
    """What the point does between its steps; all ranks at once, for groups are made."""
    writing = None
    if config.checkpoint.kind != "none":
        of = {f"model.{name}": value for name, value in dataclasses.asdict(config.model).items() if name != "name"}
        of["optimizer.state"] = config.optimizer.state
        checkpoints = Checkpoints(run_dir / "checkpoints", config.checkpoint, trained, tell, of, config.steps)
        writing = checkpoints, Interval(config.checkpoint, dist.get_world_size(), config.warmup)
    return Between(config.steps, stop, pause, tell, writing)


def train_point(config: Config, trained: Strategy, data: Source, observer: Observer, between: Between) -> None:
    """Train the point's steps at its learning rates."""
    rate = cosine(config.steps, config.optimizer.lr, config.optimizer.lr_warmup, config.optimizer.lr_final)
    with attention_kernels(config.attention):
        train(trained, data, rate, observer, between)
