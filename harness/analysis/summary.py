"""One point in numbers: a row of points.csv, without what only its study can tell."""

from typing import Any

from harness.analysis import nodes
from harness.analysis.attainable import entries
from harness.analysis.collectives import OPERATIONS, collectives
from harness.analysis.environment import in_force
from harness.analysis.exposure import exposure
from harness.analysis.goodput import BUCKETS, doubts, ledger
from harness.analysis.parts import PARTS, StepAccounts, step_parts
from harness.analysis.read import Events, Point, Record
from harness.analysis.steps import gaps, kept, latest, unended, without_record
from harness.analysis.stragglers import Arrivals, Waiting, arrivals, host_of, sentence
from harness.analysis.telemetry import Telemetry, telemetry
from harness.analysis.throughput import attained, slow_products, throughput, utilisation
from harness.config import Config
from harness.plan.model import FLOPS_CONVENTION, flops_per_token, flops_per_token_causal, parameters
from harness.plan.workload import times_collectives

Row = dict[str, Any]

# What only training has.
TRAINED = (
    "model",
    "parallel",
    "precision",
    "scaling",
    "parameters",
    "data",
    "seq_len",
    "local_batch",
    "global_batch",
    "steps",
    "compile",
    "activation_checkpointing",
    "goodput_tokens_per_s",
    "lost_steps",
)


def summarise(point: Point) -> Row:
    """The point's columns by name; docs/report.md has their units and conventions. What is not known is absent."""
    return in_numbers(point)[0]


def in_numbers(point: Point) -> tuple[Row, Waiting | None]:
    """The same, and the waiting that the point's ranks cause, which is no column."""
    config = point.config
    start = latest(point.events, "start") or {}
    gpus = config.nodes * config.gpus_per_node
    ranks = start.get("world_size", gpus)  # a later attempt may have had fewer hosts
    tokens_per_step = start.get("tokens_per_step")
    communication, exposed, accounts = collectives(point.events), exposure(point.events), StepAccounts()
    skipped: list[str] = []
    arrived = _arrivals(point, accounts, skipped)
    tiled = ledger(point.launches, point.events)
    devices = telemetry(point.path, point.events, gpus)
    ok = point.status.get("status") == "ok"
    lost = gaps(point.events, config, ok)
    warnings = [*_doubts(point, start, lost), *point.warnings, *doubts(tiled), *devices.warnings]
    warnings += nodes.passed_over("sample", skipped)
    if ranks < gpus:
        warnings.append(f"its latest attempt had {ranks} of the {gpus} ranks that rates are divided by")
    if slow := slow_products(start):
        warnings.append(slow)
    if communication.partial:
        warnings.append("collective times come from windows with missing entries")
    if arrived.straggler is not None:
        warnings.append(sentence(arrived.straggler, start.get("hosts", []), ranks))
    row: Row = {
        "slug": point.slug,
        "status": point.status.get("status"),
        "reason": point.status.get("reason"),
        **_asked(config, gpus),
        "backend": start.get("backend"),
        "tokens_per_step": tokens_per_step,
        "tokens_per_gpu_step": tokens_per_step / gpus if tokens_per_step else None,
        "device_name": start.get("device_name"),
        "hosts": len(start["hosts"]) if "hosts" in start else None,
        "oversubscribed": start.get("oversubscribed"),
        "began": point.launches[0].get("start") if point.launches else None,
        "attempts": len(point.launches),
        "sampled_steps": communication.windows,
        "profiled_steps": sum(step["role"] == "profiled" for step in kept(point.events)),
        "all_reduce_busbw": communication.all_reduce_busbw,
        **{f"{name}_s_p50": communication.seconds[name] for name in OPERATIONS},
        "transfer_s_p50": exposed.transfer_s,
        "wait_s_p50": exposed.wait_s,
        "exposed_comm_s": exposed.communication,
        "exposed_transfer_s_p50": exposed.transfer,
        "exposed_wait_s_p50": exposed.wait,
        "bubble_s_p50": exposed.bubble,
        "last_rank": arrived.last_rank,
        "last_share": arrived.last_share,
        **_straggler(arrived, start.get("hosts", []), ranks),
        "peak_memory_bytes": _peak_memory(point.events),
        "loss_last": None
        if lost
        else next((step["loss"] for step in reversed(kept(point.events)) if step["loss"] is not None), None),
        "warnings": "; ".join(warnings) or None,
        "power_w_gpu": devices.power_w_gpu,
        "clock_sm_mhz_p50": devices.clock_sm_mhz_p50,
        "throttled": devices.throttled,
        "power_cap": devices.power_cap,
        **_surroundings(point, start),
    }
    if point.launches:
        row |= {
            "goodput_tokens_per_s": None if lost else tiled.goodput_tokens_per_s,
            "goodput_fraction": None if lost or unended(point.events, config, ok) else tiled.goodput_fraction,
            "wall_s": tiled.wall_s,
            "queue_s": tiled.queue_s,
            "lost_steps": tiled.lost_steps,
            **{f"ledger_{name}_s": tiled.buckets[name] for name in BUCKETS},
        }
    waiting = arrived.waiting and arrived.waiting.placed(start.get("hosts", []), ranks)
    if times_collectives(config):
        return row | dict.fromkeys(TRAINED) | _benchmark(point), waiting
    if lost:
        return row, waiting
    return row | _window(point, gpus, ranks, start, devices, accounts), waiting


def _asked(config: Config, gpus: int) -> Row:
    """The columns that the configuration tells by itself."""
    return {
        "workload": config.workload.name,
        "model": config.model.name,
        "parallel": config.parallel.name,
        "nccl": config.nccl.name,
        "nodes": config.nodes,
        "gpus": gpus,
        "precision": config.precision.name,
        "repeat": config.repeat,
        "scaling": config.scaling,
        "parameters": parameters(config.model),
        "data": config.data.name,
        "seq_len": config.seq_len,
        "local_batch": config.local_batch,
        "global_batch": config.global_batch or config.local_batch * gpus,
        "steps": config.steps,
        "compile": config.compile,
        "activation_checkpointing": config.activation_checkpointing,
        "faults": config.faults.kind if config.faults.kind != "none" else None,
    }


def _doubts(point: Point, start: Record, lost: list[int]) -> list[str]:
    """Why the point's figures are not what they seem."""
    faults = point.config.faults.kind
    told = [f"faults={faults}: figures are of a point with faults on purpose"] * (faults != "none")
    if start.get("oversubscribed"):
        told.append(f"{_ranks_on_cores(point)}: not a scaling measurement")
    return told + ([without_record(lost)] if lost else [])


def _benchmark(point: Point) -> Row:
    """The columns of a benchmark of collectives: each operation's largest bus bandwidth over its sizes."""
    row: Row = {"op": point.config.workload.op}
    for entry in entries(point.events):
        name = f"{entry['op']}_peak_busbw"
        row[name] = max(row.get(name, 0.0), entry["busbw"])
    return row


def _window(point: Point, gpus: int, ranks: int, start: Record, devices: Telemetry, accounts: StepAccounts) -> Row:
    """The columns of the measured window; none where no step was measured."""
    window = throughput(point.events)
    if window is None:
        return {"window_steps": 0}
    mean = window.window_s / window.steps
    made = step_parts(accounts, point.events, ranks, window.data_share * mean)
    rate, config = window.tokens_per_s, point.config
    whole, causal = (count(config.model, config.seq_len) for count in (flops_per_token, flops_per_token_causal))
    seconds, device_name = sorted(window.seconds), start.get("device_name")
    return {
        "tokens_per_s": rate.value,
        "tokens_per_s_lo": rate.lo,
        "tokens_per_s_hi": rate.hi,
        "interval": rate.kind,
        "tokens_per_s_gpu": rate.value / gpus,
        "mfu": utilisation(whole, rate.value / gpus, config, device_name),
        "mfu_causal": utilisation(causal, rate.value / gpus, config, device_name),
        "flops_convention": FLOPS_CONVENTION,
        "attained": attained(whole, rate.value / gpus, start),
        "energy_per_token_j": devices.power_w / rate.value if devices.power_w is not None else None,
        "window_steps": window.steps,
        "step_s_mean": mean,
        "step_s_min": seconds[0],
        "step_s_p25": window.p25,
        "step_s_p50": window.p50,
        "step_s_p75": window.p75,
        "step_s_p95": window.p95,
        "step_s_p99": window.p99,
        "step_s_max": seconds[-1],
        "step_s_mad": window.mad,
        "slowest_rank": None if window.slowest is None else window.slowest.rank,
        "slowest_by": None if window.slowest is None else window.slowest.by,
        "data_share": window.data_share,
        "sampled_step_s": made.sampled_step_s,
        **{f"part_{name}_s": made.seconds[name] for name in PARTS},
    }


def _arrivals(point: Point, accounts: StepAccounts, skipped: list[str]) -> Arrivals:
    """From what all ranks wrote of the steps that were kept, which is streamed: at scale it does not fit in memory.

    On its way `accounts` takes note of it, and `skipped` of what had to be.
    """
    steps = {(record["attempt"], record["step"]): record["duration_s"] for record in kept(point.events)}
    told = (
        record
        for attempt in point.events
        for record in nodes.records(point.path / "attempts" / str(attempt), "sample", skipped)
        if (record["attempt"], record["step"]) in steps
    )
    return arrivals(accounts.watch(told), steps)


def _straggler(arrived: Arrivals, hosts: list[str], ranks: int) -> Row:
    if arrived.straggler is None:
        return {}
    return {"straggler_rank": arrived.straggler.rank, "straggler_host": host_of(arrived.straggler.rank, hosts, ranks)}


def _ranks_on_cores(point: Point) -> str:
    machine = point.provenance.get("machine", {})
    return f"{point.config.gpus_per_node} ranks on {machine.get('cores') or 'fewer'} cores"


def _surroundings(point: Point, start: Record) -> Row:
    """Code, versions and machine: as the running processes told, else as they were started from."""
    versions = point.provenance.get("versions", {}) | start.get("versions", {})
    git, machine = point.provenance.get("git", {}), point.provenance.get("machine", {})
    return {
        "git_sha": git.get("sha"),
        "git_dirty": git.get("dirty"),
        "torch": versions.get("torch"),
        "cuda": versions.get("cuda"),
        "nccl_version": versions.get("nccl"),
        "driver": versions.get("driver"),
        "processor": machine.get("cpu"),
        "cores": machine.get("cores"),
        "threads": _threads(start, point.environment),
        **_ambient(point.environment),
    }


def _threads(start: Record, environment: Record) -> int | None:
    """OpenMP's threads of a rank, where all have as many."""
    told = [entry["omp_num_threads"] for host in start.get("affinity", ()) for entry in host]
    found = set(told or [environment.get("added", {}).get("OMP_NUM_THREADS")])
    one = found.pop() if len(found) == 1 else None
    return int(one) if one and one.isdecimal() else None


def _ambient(environment: Record) -> Row:
    """What of NCCL's settings came with the machine instead of the configuration, in a line each."""
    if not environment:
        return {}
    files = (file for file in environment["files"] if file["exists"])
    return {
        "nccl_ambient": " ".join(f"{name}={value}" for name, value in in_force(environment).items()),
        "nccl_files": " ".join(f"{file['path']}:{(file['sha256'] or 'unreadable')[:12]}" for file in files),
    }


def _peak_memory(events: Events) -> int | None:
    peaks = [
        record["peak_memory_bytes"]
        for records in events.values()
        for record in records
        if record.get("peak_memory_bytes") is not None
    ]
    return max(peaks, default=None)
