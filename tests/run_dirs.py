"""Writes run directories whose truth is known: constructed records for tests, not measurements.

Every record is checked against harness/records.schema.json as it is written.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
from omegaconf import OmegaConf

import harness
from harness.config import Config, Data, Hardware, Launcher, Model, Nccl, Parallel, Precision, Record
from harness.plan.busbw import algbw, busbw

EPOCH = 1_760_000_000.0
PROCESS_START_S, RENDEZVOUS_S, BUILD_S, FIRST_STEP_S, SHUTDOWN_S = 2.0, 0.5, 1.0, 3.0, 0.25
OVERHEAD_S = PROCESS_START_S + RENDEZVOUS_S + BUILD_S + FIRST_STEP_S + SHUTDOWN_S
MIB = 2**20


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads((Path(harness.__file__).parent / "records.schema.json").read_text())
    return jsonschema.Draft202012Validator(schema)


def record(kind: str, time: float, attempt: int | None = 0, **values: Any) -> dict[str, Any]:
    """A record of schema 1, valid or an error."""
    made = {"schema": 1, "kind": kind, "time": time, "attempt": attempt, **values}
    validator().validate(made)
    return made


def make_config(parallel: str = "ddp", gpus: int = 1, nodes: int = 1, **changes: Any) -> Config:
    """A small model's configuration; `changes` are fields of Config."""
    config = Config(
        study="made",
        nodes=nodes,
        gpus_per_node=gpus,
        seq_len=128,
        steps=30,
        warmup=3,
        model=Model("tiny", 128, 4, 4, 2, 32, 384, 256),
        parallel=Parallel(parallel, "fsdp" if parallel == "fsdp" else "ddp"),
        precision=Precision("fp32", "fp32"),
        data=Data("bytes", "bytes"),
        nccl=Nccl("default"),
        launcher=Launcher("local", "local"),
        record=Record("default"),
        hardware=Hardware("auto"),
    )
    return dataclasses.replace(config, **changes)


def make_step(step: int, role: str, start: float, seconds: float, tokens: int, **changes: Any) -> dict[str, Any]:
    """A step record of rank 0."""
    values = {
        "step": step,
        "role": role,
        "start": start,
        "duration_s": seconds,
        "data_s": 0.0,
        "tokens": tokens,
        "loss": 5.0 / step,
        "grad_norm": 1.0,
        "lr": 3e-4,
        "peak_memory_bytes": 200 * MIB,
    }
    return record("step", start + seconds, **(values | changes))


def make_progress(time: float, attempt: int = 0, **changes: Any) -> dict[str, Any]:
    """Where an attempt is: before its first step, unless `changes` say otherwise."""
    values = {"phase": "step", "first": None, "first_time": None, "step": None, "finished": None}
    return record("progress", time, attempt, **(values | changes))


def make_collectives(
    step: int, time: float, attempt: int = 0, kinds: Sequence[str] = ("all_reduce",), **changes: Any
) -> dict[str, Any]:
    """A sampled window over two ranks: of each kind an operation of 4 MiB in 2 ms and a small one."""
    operations = []
    for kind in kinds:
        large = {"op": kind, "group": "0", "group_size": 2, "bytes": 4 * MIB, "count": 1, "small": False}
        large |= {"duration_s": 0.002, "busbw": 2.1e9}
        operations += [large, large | {"bytes": 64, "small": True, "busbw": 1e6}]
    names = ("all_reduce", "all_gather", "reduce_scatter")
    values = {
        "step": step,
        "source": "profiler",
        "partial": False,
        "seconds": {name: 0.002 if name in kinds else None for name in names},
        "operations": operations,
    }
    return record("collectives", time, attempt, **(values | changes))


def make_benchmark(op: str, size: int, seconds: float, start: float, ranks: int = 2, **changes: Any) -> dict[str, Any]:
    """What one operation of one size takes alone; it was timed for 0.2 s of 0.3 s."""
    rates = {"algbw": algbw(size, seconds), "busbw": busbw(op, size, seconds, ranks)}
    values = {"op": op, "bytes": size, "group_size": ranks, "dtype": "fp32", "graph": False, "in_place": False}
    values |= {"iterations": 10, "batches": 5, "duration_s": seconds, "duration_min_s": seconds}
    values |= {"duration_max_s": seconds, **rates, "wrong": 0, "start": start, "timed_s": 0.2, "whole_s": 0.3}
    return record("benchmark", start + 0.3, **(values | changes))


def make_start(config: Config, time: float, attempt: int = 0, **changes: Any) -> dict[str, Any]:
    """The record of a standing model, on CPUs unless `changes` say otherwise."""
    ranks = config.nodes * config.gpus_per_node
    values = {
        "world_size": ranks,
        "nodes": config.nodes,
        "backend": "gloo",
        "device": "cpu",
        "device_name": None,
        "hosts": [f"host{node}" for node in range(config.nodes)],
        "oversubscribed": False,
        "parameters": 800_000,
        "tokens_per_step": tokens_per_step(config),
        "strategy": {"name": config.parallel.name},
        "data": {"name": config.data.name, "sha256": None, "tokens": None},
        "types": dict.fromkeys(("parameters", "compute", "reduce", "accumulate", "master", "moments"), "fp32"),
        "versions": {"python": "3.11", "torch": "2.13", "cuda": None, "nccl": None, "driver": None},
        "nccl": {"version": None, "transports": None, "network": None, "env": {}},
        "topology": None,
    }
    return record("start", time, attempt, **(values | changes))


def make_ranks(step_first: int, slowest: Sequence[float], window_s: float) -> dict[str, Any]:
    """What all ranks say of steps: rank 1 was slowest in each, rank 0 took 0.1 s."""
    return record(
        "ranks",
        EPOCH,
        step_first=step_first,
        step_last=step_first + len(slowest) - 1,
        duration_max_s=list(slowest),
        duration_min_s=[0.1] * len(slowest),
        slowest_rank=[1] * len(slowest),
        window_s=window_s,
        peak_memory_bytes=None,
    )


def tokens_per_step(config: Config) -> int:
    ranks = config.nodes * config.gpus_per_node
    return (config.global_batch or config.local_batch * ranks) * config.seq_len


def make_attempt(
    config: Config,
    seconds: Sequence[float],
    *,
    number: int = 0,
    start: float = EPOCH,
    first_step: int = 1,
    ended: bool = True,
    windows: int = 2,
    begin: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One attempt's launch record and events: the phases above, a first step, then a step for each of `seconds`.

    Steps up to `warmup` have that role. An attempt that has not `ended` was killed as its last step was done.
    With more than one rank, rank 0 is the slowest and `windows` collective windows follow.
    """
    tokens = tokens_per_step(config)
    now = start + PROCESS_START_S
    events = []
    for name, duration in (("rendezvous", RENDEZVOUS_S), ("model_build", BUILD_S)):
        events.append(record("phase", now + duration, number, name=name, start=now, duration_s=duration))
        now += duration
    events.append(make_start(config, now, number, **(begin or {})))
    for step, duration in enumerate([FIRST_STEP_S, *seconds], start=first_step):
        role = "first" if step == first_step else "warmup" if step <= config.warmup else "measured"
        events.append(make_step(step, role, now, duration, tokens, attempt=number))
        now += duration
    ranks = config.nodes * config.gpus_per_node
    if ranks > 1:
        kinds = ("all_gather", "reduce_scatter") if config.parallel.kind == "fsdp" else ("all_reduce",)
        for window in range(windows):
            events.append(make_collectives(config.warmup + 1 + window, now, number, kinds))
    if ended:
        last = first_step + len(seconds)
        events.append(record("end", now, number, steps=last, tokens=last * tokens))
        now += SHUTDOWN_S
    launch = record(
        "launch",
        start,
        number,
        command=["python", "-m", "torch.distributed.run"],
        host="host0",
        position=0,
        queue_s=None,
        start=start,
        end=now,
        exit_code=0 if ended else 1,
    )
    return launch, events


def make_timed(
    config: Config, curves: dict[str, dict[int, float]], **begin: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An attempt that times collectives alone: by operation, the seconds of each size. `begin` changes its start."""
    untrained = dict.fromkeys(("parameters", "tokens_per_step", "strategy", "data", "types"))
    now = EPOCH + PROCESS_START_S
    events = [record("phase", now + RENDEZVOUS_S, name="rendezvous", start=now, duration_s=RENDEZVOUS_S)]
    now += RENDEZVOUS_S
    events.append(make_start(config, now, **(untrained | begin)))
    for op, curve in curves.items():
        for size, seconds in curve.items():
            events.append(make_benchmark(op, size, seconds, now, config.nodes * config.gpus_per_node))
            now += events[-1]["whole_s"]
    events.append(record("end", now, **dict.fromkeys(("steps", "tokens", "graph_breaks", "compiled_graphs"))))
    ended = {"start": EPOCH, "end": now + SHUTDOWN_S, "exit_code": 0}
    return record("launch", EPOCH, command=["python"], host="host0", position=0, queue_s=None, **ended), events


def make_study(root: Path, name: str = "made", schema: int = 1) -> Path:
    """A study's folder without points."""
    study = root / name
    (study / "points").mkdir(parents=True)
    (study / "study.json").write_text(json.dumps({"schema": schema, "kind": "study", "time": EPOCH, "name": name}))
    return study


def add_point(
    study: Path,
    config: Config,
    attempts: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]] = (),
    *,
    status: str = "ok",
    reason: str | None = None,
    cores: int = 2,
) -> Path:
    """Write a point's run directory."""
    scale = f"n{config.nodes}x{config.gpus_per_node}"
    names = (config.model.name, config.parallel.name, scale, config.nccl.name, f"r{config.repeat}")
    taken = len(list((study / "points").iterdir()))
    path = study / "points" / f"{'-'.join(names)}-{taken:06x}"
    path.mkdir()
    (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
    machine = {"hostname": "host0", "platform": "Linux", "cpu": "a made processor", "cores": cores, "gpus": []}
    started = {
        "git": {"sha": "0123456789abcdef", "dirty": False, "remote": None},
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "machine": {**machine, "memory_bytes": 2**30, "driver": None},
        "command": ["harness", "run"],
    }
    (path / "provenance.json").write_text(json.dumps(record("provenance", EPOCH, **started)))
    ended = record("status", EPOCH, None, status=status, reason=reason, rank=None)
    (path / "status.json").write_text(json.dumps(ended))
    for launch, events in attempts:
        folder = path / "attempts" / str(launch["attempt"])
        folder.mkdir(parents=True)
        (folder / "launch.json").write_text(json.dumps(launch))
        (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def demo_study(root: Path, name: str = "made", **texts: str) -> Path:
    """ddp and fsdp at 1 and 2 ranks, all `ok`: ddp keeps 90 % and fsdp 80 % of its tokens/s per rank."""
    study = make_study(root, name)
    for parallel, kept in (("ddp", 0.9), ("fsdp", 0.8)):
        for ranks in (1, 2):
            config = make_config(parallel, ranks)
            mean = 0.1 if ranks == 1 else 0.1 / kept
            seconds = [mean * (1 + 0.02 * ((step * 7) % 5 - 2)) for step in range(29)]
            add_point(study, config, [make_attempt(config, seconds)], **texts)
    return study
