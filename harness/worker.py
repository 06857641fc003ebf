"""One rank, from process start to exit: the only place where the parts are wired together.

Started by torchrun: `torchrun --nproc-per-node=8 -m harness.worker RUN_DIR`.
"""

import argparse
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from harness.collectives.benchmark import benchmark
from harness.collectives.operations import Buffers
from harness.config import Config
from harness.parallel.mesh import Mesh
from harness.parallel.strategy import Strategy
from harness.place import Place, join, leave
from harness.plan.batch import tokens_per_step
from harness.plan.benchmark import buffers, operations, sizes
from harness.plan.elastic import on_hosts
from harness.plan.model import parameters
from harness.plan.workload import times_collectives
from harness.recorder.attach import devices_watched, observer_of, ranges_of, recorder_of
from harness.recorder.ceiling import ceiling
from harness.recorder.clock import CudaClock, HostClock
from harness.recorder.files import Files
from harness.recorder.out_of_memory import snapshot_when_full
from harness.recorder.ranges import within
from harness.recorder.surroundings import affinity, cores_here, device_name, nccl_start, nvidia_smi, versions
from harness.recorder.watchdog import patience, watched
from harness.stored import stored_config
from harness.training.data import Source
from harness.training.faults import with_faults
from harness.training.loop import Observer
from harness.training.point import arranged, build, open_between, open_data, settle, train_point
from harness.training.stop import Stop
from launch.environment import changed, hidden

NOT_TRAINED = dict.fromkeys(("parameters", "tokens_per_step", "strategy", "data", "types"))
"""What a `start` record says of training where there is none."""


@record
def main() -> None:
    stop = Stop()
    parser = argparse.ArgumentParser(prog="harness.worker", description="One rank of a point.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--attempt", type=int, default=0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("this point was planned on GPUs, and torch finds no usable CUDA device here")
    place, environment = here(arguments.device)
    # all that trains lives in here and is gone before the group is: gloo can abort otherwise
    if times_collectives(stored_config(arguments.run_dir)):
        stop.forget()
        time_collectives(arguments.run_dir, arguments.attempt, place, environment)
    else:
        run(arguments.run_dir, arguments.attempt, place, environment, stop)
    leave()


def here(device_type: str) -> tuple[Place, dict[str, str]]:
    """This process's place, and its environment, which torchrun has told it in."""
    environment = dict(os.environ)
    return Place.told(environment, device_type), environment


def run(
    run_dir: Path,
    attempt: int,
    place: Place,
    environment: dict[str, str],
    stop: Stop,
    around: Callable[[Observer], Observer] | None = None,
) -> None:
    """Train the point of a run directory and write its records.

    around: makes of the recorder what is to look on in its place, as a benchmark's stopwatch does.
    """
    start, begin = time.time(), time.perf_counter()
    check_environment(run_dir, attempt, environment)
    # a later attempt may have fewer hosts than planned
    config = on_hosts(stored_config(run_dir), place.nodes)
    with (
        Files(run_dir / "attempts" / str(attempt), attempt, place) as files,
        watched(config, attempt, place, files, stop.wait) as dump,
    ):
        join(place, patience(config))
        mesh = Mesh(place.device_type, arranged(config))
        dump.labels = mesh.labels
        hosts = gather_hosts(place, environment)
        files.write("phase", name="rendezvous", start=start, duration_s=time.perf_counter() - begin)
        if place.cuda:
            snapshot_when_full(files.folder / "profile" / f"oom.rank{place.rank}.pickle")
        recorder, ranges = recorder_of(config, place, mesh.labels, files), ranges_of(config, place.rank)
        with devices_watched(config, place, files):
            with files.phase("profiling"):
                matmul = ceiling(product_type(config), recorder.exchange, place.device)
            with files.phase("model_build"), within(ranges, "model_build") if ranges else nullcontext():
                trained = build(config, mesh, place.device)
                data = open_data(config, trained, place.device)
                if place.rank == 0:
                    told = surroundings(place, hosts, files.folder / "logs", environment)
                    files.write("start", **told, **describe(config, trained, data), matmul=matmul)
                between = open_between(config, run_dir, trained, stop, recorder.pause, recorder.write)
                settle()
                if place.cuda:  # the device builds on when the host is done
                    torch.cuda.synchronize()
            if attempt > 0:
                with files.phase("restore"):
                    between.restore()
            recorder.begin_at(between.first, between)
            observer = observer_of(config, recorder, trained, ranges, place, files)
            observed = with_faults(
                config, around(observer) if around else observer, trained, place.rank, run_dir, attempt
            )
            train_point(config, trained, data, observed, between)


def time_collectives(run_dir: Path, attempt: int, place: Place, environment: dict[str, str]) -> None:
    """Time the collectives of the point of a run directory and write its records."""
    start, begin = time.time(), time.perf_counter()
    check_environment(run_dir, attempt, environment)
    config = stored_config(run_dir)
    with Files(run_dir / "attempts" / str(attempt), attempt, place) as files, watched(config, attempt, place, files):
        join(place, patience(config))
        hosts, wanted = gather_hosts(place, environment), sizes(config, place.device_type)
        files.write("phase", name="rendezvous", start=start, duration_s=time.perf_counter() - begin)
        with files.phase("model_build"):
            lying = Buffers(*buffers(config, wanted[-1]), place.device)
            if place.rank == 0:
                files.write("start", **NOT_TRAINED, **surroundings(place, hosts, files.folder / "logs", environment))
        files.enter("step")
        with devices_watched(config, place, files):
            clock = CudaClock() if place.cuda else HostClock()
            benchmark(operations(config), wanted, lying, place.device, clock, files.write)
        files.enter("shutdown")
        files.write("end", steps=None, tokens=None, graph_breaks=None, compiled_graphs=None)


def product_type(config: Config) -> str:
    """The type of the point's matrix products, as `ceiling` names it."""
    return "float8" if config.precision.float8 else config.precision.compute


def check_environment(run_dir: Path, attempt: int, environment: dict[str, str]) -> None:
    """Raise RuntimeError where this rank does not see the NCCL variables that its controller has written down."""
    written = (run_dir / "attempts" / str(attempt) if attempt else run_dir) / "env.json"
    # a rank that was started by hand has whatever its person gave it
    found = changed(json.loads(written.read_text()), environment) if written.exists() else []
    if found:
        more = f" (and {len(found) - 1} more)" if found[1:] else ""
        raise RuntimeError(
            f"{found[0]}{more}; something between the launcher and the rank, such as an image's environment, has "
            "changed it"
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


def describe(config: Config, trained: Strategy, data: Source) -> dict[str, object]:
    """What the `start` record says of what the point trains."""
    return {
        "parameters": parameters(config.model),
        "tokens_per_step": tokens_per_step(config),
        "strategy": {
            "kind": config.parallel.kind,
            "mesh": trained.mesh.shape,
        },
        "data": data.describe(),
        "types": trained.types,
    }


def surroundings(place: Place, hosts: dict[str, object], logs: Path, environment: dict[str, str]) -> dict[str, object]:
    """What the `start` record says of what the point ran on."""
    cuda = place.cuda
    available = torch.cuda.device_count() if cuda else len(os.sched_getaffinity(0))
    return {
        "world_size": place.world_size,
        "nodes": place.nodes,
        "backend": dist.get_backend(),
        "device": place.device_type,
        "device_name": device_name(place.device),
        **hosts,
        "oversubscribed": place.local_world_size > available,
        "versions": versions(),
        "nccl": nccl_start(logs, hidden(environment)),
        "topology": nvidia_smi("topo", "-m") if cuda else None,
    }


if __name__ == "__main__":
    main()
