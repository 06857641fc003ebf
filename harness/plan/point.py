"""A point before it starts: whether it can run, what it will do, and about what it will cost."""

from dataclasses import dataclass, replace

from harness.config import Config, Data, Optimizer
from harness.plan import batch, nccl
from harness.plan.checkpoint import check_checkpoint
from harness.plan.collectives import Traffic, traffic
from harness.plan.data import check_tokens
from harness.plan.degrees import check_degrees, crosses_hosts
from harness.plan.faults import check_faults
from harness.plan.hardware import Device
from harness.plan.memory import Memory, estimate
from harness.plan.model import flops_per_token, parameters
from harness.plan.model_fields import check_model
from harness.plan.profiling import check_profile, profiled_steps
from harness.plan.window import SAMPLE_OFFSET, sampled_steps

# For the estimate of time only: a usual MFU of large dense models, and what a start takes until the first step.
ASSUMED_MFU = 0.4
ASSUMED_START = 60.0
# A block's forward again in backward: 4 units of work where 3 would do.
RECOMPUTATION = 4 / 3
# What of a microbatch's work a pipeline stage waits for each other stage: all, one of its rank's stages', or the
# third of that which cannot be put off.
BUBBLE = {"1f1b": 1.0, "gpipe": 1.0, "interleaved": 1.0, "zero_bubble": 1 / 3}

# A bf16 number keeps 8 bits: what decays by less than its last one does not decay.
BF16_DECAY = 1 - 2**-8

FEW_MEASURED_STEPS = 10
MEMORY_MARGIN = 0.15
GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """What a point will do.

    accumulation: forward passes of a rank in one step. traffic: what the first rank moves in a step. seconds and
    gpu_hours: an estimate with ASSUMED_MFU, None where the device's peak is not known. warnings: one sentence each.
    """

    world_size: int
    data_parallel: int
    accumulation: int
    tokens_per_step: int
    parameters: int
    traffic: list[Traffic]
    memory: Memory
    seconds: float | None
    gpu_hours: float | None
    warnings: list[str]


def plan(config: Config, device: Device | None, memory_limit: int | None) -> Plan:
    """The plan of one point on one kind of device, or without one on a machine that leaves a rank `memory_limit` bytes.

    Its fields are within their limits (harness.fields.check_fields). ValueError, one sentence with the field, its value
    and what would be right, for a point that cannot run.
    """
    check_model(config.model)
    _check_data(config)
    _check_optimizer(config)
    check_degrees(config)
    check_checkpoint(config)
    nccl_warnings = nccl.check(config.nccl.env)
    step_warnings = [*_check_steps(config), *check_faults(config)]
    accumulation = batch.accumulation(config)
    data_parallel = batch.data_parallel(config)
    moved = traffic(config)
    memory = estimate(config)
    memory_warnings = _check_memory(config, device, memory, memory_limit)
    world_size = config.nodes * config.gpus_per_node
    seconds = _seconds(config, device, world_size)
    return Plan(
        world_size=world_size,
        data_parallel=data_parallel,
        accumulation=accumulation,
        tokens_per_step=batch.tokens_per_step(config),
        parameters=parameters(config.model),
        traffic=moved,
        memory=memory,
        seconds=seconds,
        gpu_hours=None if seconds is None else seconds * world_size / 3600,
        warnings=[*nccl_warnings, *step_warnings, *memory_warnings, *_check_hosts(config, moved)],
    )


def _check_data(config: Config) -> None:
    if config.data.kind == "tokens":
        check_tokens(config.data, config.seq_len)
    elif config.data.path is not None:
        raise ValueError(f"data.path={config.data.path}: data.kind={config.data.kind} reads no file; say data=tokens")
    if config.data.kind != "tokens" and config.data.dtype != Data.dtype:
        raise ValueError(f"data.dtype={config.data.dtype}: data.kind={config.data.kind} reads no file; say data=tokens")
    if config.data.kind == "bytes" and config.model.vocab_size < 256:
        raise ValueError(f"model.vocab_size={config.model.vocab_size}: data.kind=bytes needs at least 256 token ids")


def _check_optimizer(config: Config) -> None:
    optimizer = config.optimizer
    if optimizer.lr_warmup != Optimizer.lr_warmup and optimizer.lr_warmup >= config.steps:
        raise ValueError(
            f"optimizer.lr_warmup={optimizer.lr_warmup}: must be less than steps={config.steps}, or the learning rate "
            "never falls to lr_final"
        )
    for field in ("beta1", "beta2"):
        value = getattr(optimizer, field)
        if optimizer.state == "bf16" and value >= BF16_DECAY:
            raise ValueError(
                f"optimizer.{field}={value}: must be below {BF16_DECAY:.4f} with optimizer.state=bf16, which cannot "
                "resolve a slower decay"
            )


def _check_steps(config: Config) -> list[str]:
    after = config.steps - config.warmup
    if after <= 0:
        raise ValueError(f"steps={config.steps}: must be more than warmup={config.warmup}, or nothing is measured")
    warnings, profiled = check_profile(config), profiled_steps(config)
    every = config.checkpoint.every
    if config.checkpoint.kind == "steps" and every is not None and every > config.steps:
        warnings.append(f"checkpoint.every={every:g}: steps={config.steps} come to an end before the first checkpoint")
    sampled = sampled_steps(config.steps, config.warmup, config.record.sample_every, profiled)
    measured = after - sampled - sum(step > config.warmup for step in profiled)
    if measured < FEW_MEASURED_STEPS:
        warnings.append(
            f"steps={config.steps}: {measured} measured steps are left after warm-up, sampled and profiled steps; "
            f"{FEW_MEASURED_STEPS} or more give steadier figures"
        )
    if not sampled:
        warnings.append(
            f"steps={config.steps}: no step is sampled, so no collective is timed; "
            f"the first is step {config.warmup + SAMPLE_OFFSET}"
        )
    return warnings


def _check_hosts(config: Config, moved: list[Traffic]) -> list[str]:
    if not crosses_hosts(config):
        return []
    cost = sum(told.bytes for told in moved if told.group == "tp")
    return [
        f"parallel.tp={config.parallel.tp}: its ranks are on several hosts of gpus_per_node={config.gpus_per_node}, so "
        f"{cost / 1e9:.2g} GB a step and rank of all-gathers and reduce-scatters cross between hosts, in every layer; "
        "a divisor of gpus_per_node keeps them inside one"
    ]


def _check_memory(config: Config, device: Device | None, memory: Memory, limit: int | None) -> list[str]:
    if limit is None or memory.total <= limit * (1 - MEMORY_MARGIN):
        return []
    needs = f"model.name={config.model.name}: needs about {memory.total / GIB:.1f} GiB on a rank"
    there = f"the device's {limit / GIB:.1f} GiB"
    if not device:
        ranks = f"each of its {config.gpus_per_node} ranks" if config.gpus_per_node > 1 else "its one rank"
        there = f"the {limit / GIB:.1f} GiB that this machine's memory leaves for {ranks}"
    if memory.total <= limit:
        return [f"{needs}, close to {there}; it may run out of memory"]
    raise ValueError(
        f"{needs}, {(memory.total - limit) / GIB:.1f} GiB more than {there}; {what_would_help(config, device, limit)}"
    )


def what_would_help(config: Config, device: Device | None, limit: int) -> str:
    """The single changes that would fit into `limit` bytes, the first degree of tp that would, or all there is to turn.

    Of a point that does not.
    """
    parallel = config.parallel
    sharded = replace(parallel, kind="fsdp", reshard=True, replicas=1)
    changed = [name for name in ("kind", "reshard", "replicas") if getattr(sharded, name) != getattr(parallel, name)]
    said = " ".join(f"parallel.{name}={getattr(sharded, name)}" for name in changed)
    # a preset's name says all where there are no degrees beside the kind
    if changed == ["kind"] and batch.shared_by(config) == 1:
        said = "parallel=fsdp"
    changes = {
        "activation_checkpointing=full": replace(config, activation_checkpointing="full"),
        "local_batch=1": replace(config, local_batch=1),
        said: replace(config, parallel=sharded),
    }
    wider = {
        f"parallel.tp={tp}": replace(config, parallel=replace(parallel, tp=tp))
        for tp in range(parallel.tp + 1, config.gpus_per_node + 1)
        if config.gpus_per_node % tp == 0
    }
    fitting = [name for name, change in changes.items() if name and _fits(change, limit)]
    fitting = fitting or [name for name, change in wider.items() if _fits(change, limit)][:1]
    if fitting:
        return f"{' or '.join(fitting)} would fit"
    # More ranks on one machine's memory would leave each of them less.
    more = "more GPUs with parallel=fsdp, tp or pp, " if device else ""
    return f"{more}checkpointing, a shorter seq_len or a smaller model would help"


def _fits(config: Config, limit: int) -> bool:
    """Whether the point could run, with that many bytes for a rank."""
    try:
        check_degrees(config)
    except ValueError:
        return False
    return estimate(config).total <= limit


def _seconds(config: Config, device: Device | None, gpus: int) -> float | None:
    """Estimated wall-clock of the point, or None where the device's peak is not known."""
    peak = device.peak(config.precision) if device else None
    if peak is None:
        return None
    work = config.steps * batch.tokens_per_step(config) * flops_per_token(config.model, config.seq_len)
    if config.activation_checkpointing == "full":
        work *= RECOMPUTATION
    parallel = config.parallel
    waits = (parallel.pp - 1) * BUBBLE[parallel.schedule] / parallel.virtual_stages
    work *= 1 + waits / batch.accumulation(config)
    return work / (gpus * peak * ASSUMED_MFU) + ASSUMED_START
