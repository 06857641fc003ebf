"""The benchmark of collectives before it starts: its operations and sizes, the memory and the time that they take."""

from dataclasses import dataclass

from harness.config import OPERATIONS, Config
from harness.plan import nccl

GIB = 2**30
LARGEST = {"cuda": 4 * GIB, "cpu": 16 * 2**20}
"""Largest size by kind of device, where none is asked for; on CPU processes a run then takes about half a minute."""

GRAPHED_BYTES = 16 * 2**20
"""Up to this size an operation is timed inside a CUDA graph as well: launching it takes about as long, or longer."""

TIMED_S = {"cuda": 0.2, "cpu": 0.1}
"""Seconds that the timed calls of one operation of one size take in all, by kind of device."""

# Of a size, beside its timed calls: warm-up, filling and comparing. And what a start takes until the first of them.
ASIDE_S = 0.05
ASSUMED_START = 60.0
# Beside a rank's buffers: what comparing takes at a time, the CUDA context and NCCL's own buffers.
BESIDE_BYTES = {"cuda": 2 * GIB, "cpu": 256 * 2**20}

ALIGNED = 16
"""Bytes that a rank's part of a buffer is a multiple of, as in nccl-tests."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """What a point that times collectives will do.

    entries: how many figures it makes. memory: bytes on a rank. seconds and gpu_hours: an estimate, None on CPU
    processes. warnings: one sentence each.
    """

    world_size: int
    operations: tuple[str, ...]
    sizes: list[int]
    entries: int
    memory: int
    seconds: float | None
    gpu_hours: float | None
    warnings: list[str]


def plan_benchmark(config: Config, gpus: bool, memory_limit: int | None) -> BenchmarkPlan:
    """The plan of a point with workload=collectives, on GPUs or on CPU processes with `memory_limit` bytes a rank.

    Its fields are within their limits (harness.fields.check_fields). ValueError, one sentence with the field, its value
    and what would be right, for a point that cannot run.
    """
    device, ranks = "cuda" if gpus else "cpu", config.nodes * config.gpus_per_node
    if ranks == 1:
        raise ValueError(
            f"gpus_per_node={config.gpus_per_node}: workload=collectives needs at least 2 ranks, for one has nobody to "
            "exchange with"
        )
    if config.profile.kind != "none":
        raise ValueError(
            f"profile={config.profile.kind}: looks at steps of training, which workload=collectives has not"
        )
    if config.checkpoint.kind != "none":
        raise ValueError(
            f"checkpoint={config.checkpoint.kind}: writes the state of training, which workload=collectives has not"
        )
    if config.faults.kind != "none":
        raise ValueError(
            f"faults={config.faults.kind}: falls on a step of training, which workload=collectives has not"
        )
    names, wanted = operations(config), sizes(config, device)
    if not any(called(op, size, ranks) for op in names for size in wanted):
        raise ValueError(
            f"workload.max_bytes={wanted[-1]}: must be at least {ALIGNED * ranks} for {config.workload.op}, "
            f"{ALIGNED} bytes for each of {ranks} ranks"
        )
    memory = BESIDE_BYTES[device] + sum(buffers(config, wanted[-1]))
    _check_memory(config, gpus, memory, memory_limit)
    entries = sum(len(launches(size, device)) for op in names for size in wanted if called(op, size, ranks))
    seconds = ASSUMED_START + entries * (TIMED_S[device] + ASIDE_S) if gpus else None
    return BenchmarkPlan(
        world_size=ranks,
        operations=names,
        sizes=wanted,
        entries=entries,
        memory=memory,
        seconds=seconds,
        gpu_hours=None if seconds is None else seconds * ranks / 3600,
        warnings=nccl.check(config.nccl.env),
    )


def operations(config: Config) -> tuple[str, ...]:
    """The operations that are timed, in order."""
    return OPERATIONS if config.workload.op == "all" else (config.workload.op,)


def sizes(config: Config, device: str) -> list[int]:
    """Powers of two from the smallest size to the largest, in bytes; ValueError where they are none."""
    smallest, largest = config.workload.min_bytes, config.workload.max_bytes or LARGEST[device]
    for key, size in (("min_bytes", smallest), ("max_bytes", largest)):
        if size & (size - 1):
            raise ValueError(f"workload.{key}={size}: must be a power of two, such as {1 << size.bit_length() - 1}")
    if smallest > largest:
        asked = config.workload.max_bytes
        default = f", the largest on {'GPUs' if device == 'cuda' else 'CPU processes'} unless max_bytes says more"
        raise ValueError(
            f"workload.min_bytes={smallest}: must be at most workload.max_bytes={largest}{default * (asked is None)}"
        )
    return [1 << power for power in range(smallest.bit_length() - 1, largest.bit_length())]


def called(op: str, size: int, ranks: int) -> int:
    """The bytes that an operation is called with for a size, S by nccl-tests' convention; 0 where it leaves none.

    What every rank has an equal part of is a multiple of the ranks, each part a multiple of 16 bytes.
    """
    if op not in ("all_gather", "reduce_scatter", "all_to_all"):
        return size
    return size // ranks // ALIGNED * ALIGNED * ranks


def launches(size: int, device: str) -> tuple[bool, ...]:
    """How an operation of a size is launched: by itself (False), and where it is small inside a CUDA graph (True)."""
    return (False, True) if device == "cuda" and size <= GRAPHED_BYTES else (False,)


def size_text(size: int) -> str:
    """A size as a person says it: 64 KiB, 4 GiB."""
    power = min(3, (size.bit_length() - 1) // 10)
    return f"{size / 1024**power:.4g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


def buffers(config: Config, largest: int) -> tuple[int, int]:
    """Bytes of the two buffers of a rank that serve all operations: whole tensors, and their other ends."""
    ranks = config.nodes * config.gpus_per_node
    second = {"all_reduce": 0, "broadcast": 0, "all_gather": largest // ranks, "reduce_scatter": largest // ranks}
    return largest, max(second.get(op, largest) for op in operations(config))


def _check_memory(config: Config, gpus: bool, memory: int, limit: int | None) -> None:
    if limit is None or memory <= limit:
        return
    there = "the device's" if gpus else f"this machine's memory, shared by {config.gpus_per_node} ranks, leaves"
    asked = config.workload.max_bytes
    raise ValueError(
        f"workload.max_bytes={'null' if asked is None else asked}: needs about {memory / GIB:.1f} GiB on a rank, more "
        f"than {there} {limit / GIB:.1f} GiB; a smaller size, or a single workload.op, would fit"
    )
