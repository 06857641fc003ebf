"""Records that were made, not measured: drawn numbers in the form of those of one attempt, as large as real ones."""

from collections.abc import Iterator
from random import Random
from typing import Any

from harness.config import Config
from harness.plan.busbw import busbw
from harness.plan.window import role

Made = dict[str, Any]

EPOCH = 1_760_000_000.0
FIRST_STEP_S = 20.0
FLUSH_STEPS = 5
VERSIONS = {"python": "3.11", "torch": "2.11.0", "cuda": "13.0", "nccl": "2.28.9", "driver": "580.159.04"}
GPU_ERRORS = ("nvlink_replay", "nvlink_recovery", "nvlink_crc", "ecc_corrected", "ecc_uncorrected", "remapped_rows")
PORT_ERRORS = ("symbol_error", "link_downed", "port_rcv_errors", "port_xmit_discards", "local_ack_timeout_err")
CONGESTION = ("port_xmit_wait", "np_cnp_sent", "rp_cnp_handled", "roce_adp_retrans")


def made(kind: str, time: float, **values: Any) -> Made:
    return {"schema": 1, "kind": kind, "time": time, "attempt": 0, **values}


def roles(config: Config) -> list[str]:
    """The role of each step, from 1."""
    return [role(step, config.warmup, config.record.sample_every) for step in range(1, config.steps + 1)]


def events(config: Config, step_s: float, draw: Random) -> Iterator[Made]:
    """What rank 0 writes, from its first phase to its end; steps last about `step_s` seconds after the first."""
    gpus, now = config.nodes * config.gpus_per_node, EPOCH + 10.0
    tokens = gpus * config.local_batch * config.seq_len
    for name, seconds in (("rendezvous", 2.0), ("model_build", 5.0)):
        yield made("phase", now + seconds, name=name, start=now, duration_s=seconds)
        now += seconds
    yield _start(config, now, tokens)
    window, flushed = 0.0, 1
    lengths: list[float] = []
    for step, how in enumerate(roles(config), 1):
        seconds = FIRST_STEP_S if how == "first" else step_s * draw.lognormvariate(0.0, 0.02)
        lengths.append(seconds * 1.01)
        window += lengths[-1] if how == "measured" else 0.0
        yield _step(step, how, now, seconds, tokens, draw)
        now += seconds
        if how == "sampled" and gpus > 1:
            yield _collectives(step, now, gpus, step_s * draw.uniform(0.9, 1.1))
        if how == "sampled":
            told = _shares(step_s * draw.uniform(0.9, 1.1), gpus)
            yield made("exposure", now, step=step, source="kineto", partial=False, ranks=min(gpus, 512), **told)
        if step % FLUSH_STEPS == 0 or step == config.steps:
            yield _ranks(flushed, lengths, gpus, window, now, draw)
            flushed, lengths = step + 1, []
    yield made("end", now, steps=config.steps, tokens=config.steps * tokens, graph_breaks=0, compiled_graphs=2)


def sample(step: int, rank: int, gpus: int, time: float, step_s: float, draw: Random) -> Made:
    """One rank's account of a sampled step."""
    waits = [{"rank": draw.randrange(gpus), "wait_s": step_s * 0.01 * draw.random()} for _ in range(min(8, gpus - 1))]
    shares = _shares(step_s * draw.uniform(0.9, 1.1), gpus)
    operations = {"operations": 66 * (gpus > 1), "last": draw.randrange(9) * (gpus > 1)}
    return made(
        "sample", time, step=step, rank=rank, source="kineto", partial=False, waited_for=waits, **operations, **shares
    )


def poll(node: int, ranks: range, time: float, since: float, draw: Random) -> Made:
    """What a node tells of its GPUs, as many ports, an interface and itself, `since` seconds after its start."""
    return made(
        "telemetry",
        time,
        host=f"node{node}",
        node=node,
        gpus=[_gpu(rank, index, since, draw) for index, rank in enumerate(ranks)],
        ports=[_port(index, since) for index in range(len(ranks))],
        interfaces=[_interface(since)],
        cpu={"busy": draw.random(), "load": 8.0 * draw.random(), "memory_bytes": 2**36, "clock_mhz": 2400.0},
        warning=None,
        duration_s=0.05,
    )


def _start(config: Config, now: float, tokens: int) -> Made:
    types = dict.fromkeys(("parameters", "reduce", "accumulate", "master", "moments"), "fp32") | {"compute": "bf16"}
    return made(
        "start",
        now,
        world_size=config.nodes * config.gpus_per_node,
        nodes=config.nodes,
        backend="nccl",
        device="cuda",
        device_name="NVIDIA H200",
        hosts=[f"node{node}" for node in range(config.nodes)],
        oversubscribed=False,
        parameters=1_498_482_688,
        tokens_per_step=tokens,
        strategy={"kind": config.parallel.kind},
        data={"name": config.data.name, "sha256": None, "tokens": None},
        types=types,
        versions=VERSIONS,
        nccl={"version": VERSIONS["nccl"], "transports": ["P2P"], "network": "IB", "env": {}},
        topology=None,
        matmul=None,
    )


def _step(step: int, how: str, start: float, seconds: float, tokens: int, draw: Random) -> Made:
    values = {"loss": 12.0 / step**0.1 + draw.random(), "grad_norm": 1.0 + draw.random(), "lr": 3e-4 * draw.random()}
    measured = {"start": start, "duration_s": seconds, "data_s": seconds * 1e-4 * draw.random(), "tokens": tokens}
    return made("step", start + seconds, step=step, role=how, **measured, **values, peak_memory_bytes=59_255_490_048)


def _ranks(first: int, lengths: list[float], gpus: int, window: float, time: float, draw: Random) -> Made:
    return made(
        "ranks",
        time,
        step_first=first,
        step_last=first + len(lengths) - 1,
        duration_max_s=lengths,
        duration_min_s=[seconds / 1.02 for seconds in lengths],
        slowest_rank=[draw.randrange(gpus) for _ in lengths],
        window_s=window,
        peak_memory_bytes=59_255_490_048,
    )


def _collectives(step: int, time: float, gpus: int, step_s: float) -> Made:
    operations, groups, seconds = [], {}, {}
    for op in ("all_gather", "reduce_scatter", "all_reduce"):
        spent = 0.1 * step_s
        for size in (38_000_000, 67_108_864, 71_311_360, 1_050_673_152):
            each = {"duration_s": spent / 66, "busbw": busbw(op, size, spent / 66, gpus)}
            kind = {"op": op, "group": "dp", "group_size": gpus, "bytes": size, "count": 16, "small": False}
            operations.append(kind | each)
        seconds[op] = spent
        moved = {"bytes": 2_000_000_000, "count": 66, "small_bytes": 64}
        groups[op] = {"seconds": spent, **moved, "transfer_s": 0.9 * spent, "wait_s": 0.1 * spent}
    values = {"source": "flight_recorder", "partial": False, "ranks": min(gpus, 512), "last": {"rank": 0, "share": 0.1}}
    return made("collectives", time, step=step, **values, seconds=seconds, groups={"dp": groups}, operations=operations)


def _shares(step_s: float, gpus: int) -> dict[str, float | None]:
    """Where a sampled step went; one rank exchanges nothing."""
    told = {
        "transfer_s": 0.18,
        "wait_s": 0.02,
        "overlapped_s": 0.15,
        "exposed_transfer_s": 0.04,
        "exposed_wait_s": 0.01,
    }
    parts: dict[str, float | None] = {name: share * step_s if gpus > 1 else None for name, share in told.items()}
    return {"step_s": step_s, "compute_s": 0.75 * step_s, **parts, "bubble_s": None, "idle_s": 0.05 * step_s}


def _gpu(rank: int, index: int, since: float, draw: Random) -> Made:
    return {
        "rank": rank,
        "uuid": f"{rank:08x}-cf1c-ce71-421d-4bc5f456a678",
        "index": index,
        "energy_j": 31431.237 + 650.0 * since + draw.random(),
        "power_w": 650.0 + draw.random(),
        "clock_sm_mhz": 1900 + draw.randrange(80),
        "clock_memory_mhz": 3201,
        "throttling": ["sw_power_cap"] if since % 60 == 15 and rank % 97 == 3 else [],
        "temperature_c": 60,
        "memory_bytes": 61_237_457_920,
        "busy": 0.99,
        "pcie_tx_bytes_per_s": None,
        "pcie_rx_bytes_per_s": None,
        "nvlink_tx_bytes": 4_759_828_615_168 + int(1e9 * since),
        "nvlink_rx_bytes": 3_732_249_519_104 + int(1e9 * since),
        "errors": dict.fromkeys(GPU_ERRORS, 0),
    }


def _port(index: int, since: float) -> Made:
    moved = {"tx_bytes": 9_000_000_000 + int(4e10 * since), "rx_bytes": 9_000_000_000 + int(4e10 * since)}
    told = {"device": f"mlx5_{index}", "port": 1, "state": "ACTIVE", "rate_bytes_per_s": 5e10, **moved}
    return told | {"errors": dict.fromkeys(PORT_ERRORS, 0), "congestion": dict.fromkeys(CONGESTION, 17)}


def _interface(since: float) -> Made:
    errors = dict.fromkeys(("rx_errors", "tx_errors", "rx_missed_errors"), 0)
    moved = {"tx_bytes": int(1e4 * since), "rx_bytes": int(1e4 * since)}
    drops = dict.fromkeys(("rx_dropped", "tx_dropped"), 0)
    return {"name": "eth0", "state": "up", "rate_bytes_per_s": 3e9, **moved, "errors": errors, "drops": drops}
