"""One rank, from process start to exit: the only place where the parts are wired together.

Started by torchrun: `torchrun --nproc-per-node=8 -m harness.worker RUN_DIR`.
"""

import argparse
import dataclasses
import gc
import json
import os
import socket
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch.distributed.elastic.multiprocessing.errors import record

from harness.config import Config
from harness.models.attention import attention_kernels
from harness.models.initialize import initialize
from harness.models.transformer import Transformer, cross_entropy
from harness.parallel.mesh import Degrees, Mesh
from harness.parallel.options import TYPES, Options
from harness.parallel.registry import strategy
from harness.parallel.strategy import Strategy
from harness.plan.batch import accumulation, data_parallel, tokens_per_step
from harness.plan.model import parameters
from harness.recorder.ceiling import ceiling
from harness.recorder.clock import CudaClock, HostClock
from harness.recorder.events import EventWriter
from harness.recorder.exchange import Exchange
from harness.recorder.gloo import GlooSampler
from harness.recorder.nccl import FlightRecorderSampler
from harness.recorder.nodes import node_file
from harness.recorder.recorder import Recorder
from harness.recorder.surroundings import (
    affinity,
    cores_here,
    device_name,
    device_uuids,
    nccl_start,
    nvidia_smi,
    versions,
)
from harness.recorder.telemetry import Telemetry
from harness.training.data import Source, source
from harness.training.loop import train
from harness.training.schedule import cosine
from launch.environment import changed


@dataclass(frozen=True)
class Place:
    """Where torchrun has put this process."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    nodes: int
    device_type: str

    @classmethod
    def here(cls, device_type: str) -> Self:
        """This process's place, as torchrun's variables tell it."""
        return cls(
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            local_rank=int(os.environ["LOCAL_RANK"]),
            local_world_size=int(os.environ["LOCAL_WORLD_SIZE"]),
            nodes=int(os.environ["GROUP_WORLD_SIZE"]),
            device_type=device_type,
        )

    @property
    def device(self) -> torch.device:
        return torch.device("cuda", self.local_rank) if self.device_type == "cuda" else torch.device("cpu")

    @property
    def node(self) -> int:
        return self.rank // self.local_world_size


@record
def main() -> None:
    parser = argparse.ArgumentParser(prog="harness.worker", description="One rank of a point.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--attempt", type=int, default=0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("this point was planned on GPUs, and torch finds no usable CUDA device here")
    # all that trains lives in here and is gone before the group is: gloo can abort otherwise
    run(arguments.run_dir, arguments.attempt, Place.here(arguments.device), dict(os.environ))
    leave()


def join(place: Place) -> None:
    """Take the place's device and meet the other ranks."""
    cuda = place.device_type == "cuda"
    if cuda:
        torch.cuda.set_device(place.device)
    dist.init_process_group("nccl" if cuda else "gloo", device_id=place.device if cuda else None)


def leave() -> None:
    """Part from the other ranks, when nothing is left that trains."""
    gc.unfreeze()
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def run(run_dir: Path, attempt: int, place: Place, environment: dict[str, str]) -> None:
    """Train the point of a run directory and write its records."""
    start, begin = time.time(), time.perf_counter()
    check_environment(run_dir, environment)
    config = read_config(run_dir)
    device, folder = place.device, run_dir / "attempts" / str(attempt)
    if (folder / "events.jsonl").exists():
        raise RuntimeError(f"{folder}: has records of an earlier start, which another one must not be mixed with")
    cuda = device.type == "cuda"
    join(place)
    mesh = Mesh(device.type, arranged(config))
    hosts = gather_hosts(place, environment)
    rendezvous_s = time.perf_counter() - begin

    folder.mkdir(parents=True, exist_ok=True)
    writer = EventWriter(folder / "events.jsonl", attempt) if place.rank == 0 else None
    recorder = Recorder(
        clock=CudaClock() if cuda else HostClock(),
        sampler=FlightRecorderSampler(mesh.labels) if cuda else GlooSampler(mesh.labels),
        exchange=Exchange(device),
        writer=writer,
        device=device,
        warmup=config.warmup,
        steps=config.steps,
        sample_every=config.record.sample_every,
        tokens_per_step=tokens_per_step(config),
        compiled=config.compile,
    )
    recorder.write("phase", name="rendezvous", start=start, duration_s=rendezvous_s)
    telemetry = watch(config, place, folder, attempt) if place.local_rank == 0 else None
    try:
        with recorder.phase("profiling"):
            matmul = ceiling(product_type(config), recorder.exchange, device)
        with recorder.phase("model_build"):
            trained = build(config, mesh, device)
            data = open_data(config, trained, device)
            if writer is not None:
                told = describe(config, trained, data, place, hosts, folder / "logs", environment)
                writer.write("start", **told, matmul=matmul)
            # what stands now stays to the end: the collector need not look at it again
            gc.collect()
            gc.freeze()
        rate = cosine(config.steps, config.optimizer.lr, config.optimizer.lr_warmup, config.optimizer.lr_final)
        with attention_kernels(config.attention):
            train(trained, data, rate, config.steps, recorder)
    finally:
        if writer is not None:
            writer.close()
        if telemetry is not None:
            telemetry.stop()


def watch(config: Config, place: Place, folder: Path, attempt: int) -> Telemetry:
    """Begin to write down what this node's devices say of themselves."""
    host = socket.gethostname()
    uuids = device_uuids(place.local_world_size) if place.device_type == "cuda" else []
    writer = EventWriter(node_file(folder, place.node, host), attempt)
    return Telemetry(writer, host, place.node, uuids, place.rank, config.record.telemetry_s)


def product_type(config: Config) -> str:
    """The type of the point's matrix products, as `ceiling` names it."""
    return "float8" if config.precision.float8 else config.precision.compute


def check_environment(run_dir: Path, environment: dict[str, str]) -> None:
    """Raise RuntimeError where this rank does not see the NCCL variables that its controller has written down."""
    written = run_dir / "env.json"
    # a rank that was started by hand has whatever its person gave it
    found = changed(json.loads(written.read_text()), environment) if written.exists() else []
    if found:
        more = f" (and {len(found) - 1} more)" if found[1:] else ""
        raise RuntimeError(
            f"{found[0]}{more}; something between the launcher and the rank, such as an image's environment, has "
            "changed it"
        )


def read_config(run_dir: Path) -> Config:
    """The configuration of a run directory's point."""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(run_dir / "config.yaml")))
    assert isinstance(config, Config)
    return config


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


def gather_hosts(place: Place, environment: dict[str, str]) -> dict[str, object]:
    """What the `start` record says of every node, in the order of their first ranks: its name, its ranks' cores."""
    ranks: list[Any] = [None] * place.world_size
    dist.all_gather_object(ranks, (socket.gethostname(), cores_here(environment)))
    names, cores = zip(*ranks, strict=True)
    size = place.local_world_size
    hosts = names[::size]
    if list(names) != [host for host in hosts for _ in range(size)]:
        raise RuntimeError(f"ranks are on {', '.join(names)}: those of a host must follow each other")
    return {
        "hosts": hosts,
        "master_addr": environment.get("MASTER_ADDR"),
        "affinity": [affinity(first, cores[first : first + size]) for first in range(0, place.world_size, size)],
    }


def describe(
    config: Config,
    trained: Strategy,
    data: Source,
    place: Place,
    hosts: dict[str, object],
    logs: Path,
    environment: dict[str, str],
) -> dict[str, object]:
    """The `start` record: what the point ran on and what it trains."""
    cuda = place.device.type == "cuda"
    available = torch.cuda.device_count() if cuda else len(os.sched_getaffinity(0))
    return {
        "world_size": place.world_size,
        "nodes": place.nodes,
        "backend": dist.get_backend(),
        "device": place.device.type,
        "device_name": device_name(place.device),
        **hosts,
        "oversubscribed": place.local_world_size > available,
        "parameters": parameters(config.model),
        "tokens_per_step": tokens_per_step(config),
        "strategy": {
            "kind": config.parallel.kind,
            "mesh": trained.mesh.shape,
        },
        "data": data.describe(),
        "types": trained.types,
        "versions": versions(),
        "nccl": nccl_start(logs, environment),
        "topology": nvidia_smi("topo", "-m") if cuda else None,
    }


if __name__ == "__main__":
    main()
