"""Large studies that were made, not run: run directories with drawn numbers, to time what reads them."""

import dataclasses
import json
from collections.abc import Iterable
from itertools import islice, product
from pathlib import Path
from random import Random
from typing import Any

import yaml

from harness.bench.made_records import EPOCH, VERSIONS, events, made, poll, roles, sample
from harness.config import Config, Data, Hardware, Launcher, Model, Nccl, Parallel, Precision, Record
from harness.recorder.nodes import node_file

MODEL = Model("1b", 2048, 24, 16, 16, 128, 5504, 32000)
STRATEGIES = ("ddp", "fsdp", "zero1", "zero2", "zero3")
NCCL = ("default", "ring", "tree", "nvls_off")
SCALES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 8))
"""Nodes, and GPUs on each."""


def make_sweep(root: Path, points: int, steps: int) -> Path:
    """A study of strategies × NCCL presets × 1 to 16 GPUs, repeated until there are `points`, with steps of 0.1 s."""
    study = _study(root, "sweep")
    choices = ((*choice, repeat) for repeat in range(points) for choice in product(STRATEGIES, NCCL, SCALES))
    for number, (parallel, nccl, (nodes, gpus), repeat) in enumerate(islice(choices, points)):
        _point(study, _config(steps, nodes, gpus, parallel, nccl, repeat), 0.1, number)
    return study


def make_large(root: Path, nodes: int, steps: int) -> Path:
    """A study of one point with eight ranks on each of `nodes` nodes, with steps of 1 s."""
    study = _study(root, "large")
    _point(study, _config(steps, nodes, 8), 1.0, 0)
    return study


def _study(root: Path, name: str) -> Path:
    (root / name / "points").mkdir(parents=True)
    _write(root / name / "study.json", [{"schema": 1, "kind": "study", "time": EPOCH, "name": name}])
    return root / name


def _config(
    steps: int, nodes: int, gpus: int, parallel: str = "fsdp", nccl: str = "default", repeat: int = 0
) -> Config:
    return Config(
        study="made",
        steps=steps,
        nodes=nodes,
        gpus_per_node=gpus,
        repeat=repeat,
        model=MODEL,
        parallel=Parallel(parallel, parallel),
        nccl=Nccl(nccl),
        precision=Precision("bf16", "bf16"),
        data=Data("synthetic", "synthetic"),
        launcher=Launcher("srun", "srun"),
        record=Record("default"),
        hardware=Hardware("h200"),
    )


def _point(study: Path, config: Config, step_s: float, number: int) -> None:
    """An `ok` point, whole but for logs, with steps of `step_s` seconds; `number` names it and seeds what is drawn."""
    draw, told = Random(number), list(events(config, step_s, Random(number)))
    name = f"{config.model.name}-{config.parallel.name}-n{config.nodes}x{config.gpus_per_node}-{config.nccl.name}"
    folder = study / "points" / f"{name}-r{config.repeat}-{number:06x}"
    attempt, ended = folder / "attempts" / "0", told[-1]["time"]
    attempt.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.dump(dataclasses.asdict(config), Dumper=yaml.CSafeDumper, sort_keys=False))
    _write(folder / "status.json", [made("status", ended, status="ok", reason=None, rank=None)])
    machine = {"hostname": "node0", "platform": "Linux", "cpu": "made", "cores": 64, "memory_bytes": 2**40}
    machine |= {"gpus": [], "driver": VERSIONS["driver"]}
    started = {"git": {"sha": None, "dirty": None, "remote": None}, "versions": VERSIONS, "machine": machine}
    _write(folder / "provenance.json", [made("provenance", EPOCH, **started, command=[])])
    variables: dict[str, Any] = {kind: {} for kind in ("requested", "ambient", "added", "effective", "other")}
    _write(folder / "env.json", [made("environment", EPOCH, **variables, cleared=[], files=[])])
    launch = {"command": [], "host": "node0", "position": number, "queue_s": 0.0, "exit_code": 0}
    _write(attempt / "launch.json", [made("launch", EPOCH, **launch, start=EPOCH, end=ended + 1.0)])
    _write(attempt / "events.jsonl", told)
    gpus, steps = config.nodes * config.gpus_per_node, [record for record in told if record["kind"] == "step"]
    sampled = [record for record, role in zip(steps, roles(config), strict=True) if role == "sampled"]
    polls = range(0, int(ended - EPOCH), int(config.record.telemetry_s))
    for node in range(config.nodes):
        ranks = range(node * config.gpus_per_node, (node + 1) * config.gpus_per_node)
        lines = [sample(step["step"], rank, gpus, step["time"], step_s, draw) for step in sampled for rank in ranks]
        lines += [poll(node, ranks, EPOCH + since, since, draw) for since in polls]
        _write(node_file(attempt, node, f"node{node}"), sorted(lines, key=lambda record: record["time"]))


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with open(path, "w") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)
