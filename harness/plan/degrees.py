"""Whether a point's degrees can share out its ranks, its model and its sequences."""

from harness.config import Config
from harness.plan import batch
from harness.plan.schedules import ROUNDED, rounds
from harness.plan.strategies import DEGREES, KINDS


def check_degrees(config: Config) -> None:
    """Raise ValueError, one sentence, where a degree does not fit the kind, the ranks, the model or the sequence."""
    _check_kind(config)
    _check_unused(config)
    _check_ranks(config)
    _check_tensor(config)
    _check_context(config)
    _check_experts(config)
    _check_pipeline(config)


def crosses_hosts(config: Config) -> bool:
    """Whether ranks that share layers sit on different hosts: they are neighbours, tp after tp."""
    return config.nodes > 1 and config.gpus_per_node % config.parallel.tp > 0


def _check_kind(config: Config) -> None:
    parallel, kind = config.parallel, KINDS[config.parallel.kind]
    for degree in DEGREES:
        if (value := getattr(parallel, degree)) > 1 and degree not in kind.degrees:
            raise ValueError(f"parallel.{degree}={value}: must be 1, for parallel.kind={parallel.kind} {kind.refusal}")
    if parallel.kind == "hsdp" and parallel.replicas == 1:
        raise ValueError("parallel.replicas=1: must be 2 or more with parallel.kind=hsdp; one copy is parallel=fsdp")
    if parallel.kind != "hsdp" and parallel.replicas > 1:
        raise ValueError(
            f"parallel.replicas={parallel.replicas}: must be 1 with parallel.kind={parallel.kind}; "
            "parallel=hsdp keeps copies of the model"
        )
    if parallel.kind not in ("fsdp", "hsdp") and not parallel.reshard:
        raise ValueError(
            "parallel.reshard=False: only fsdp and hsdp gather parameters that could be kept; say parallel=fsdp"
        )
    if parallel.pp > 1 and not parallel.reshard:
        raise ValueError(
            f"parallel.reshard=False: must be left out with parallel.pp={parallel.pp}, for a pipeline always keeps "
            "gathered parameters over a step"
        )


def _check_unused(config: Config) -> None:
    """Fields that act through a degree only; on a single rank, which has no degrees, they may stand."""
    parallel = config.parallel
    if config.nodes * config.gpus_per_node == 1:
        return
    if parallel.pp == 1:
        if parallel.schedule != "1f1b":
            raise ValueError(f"parallel.schedule={parallel.schedule}: must be left out with parallel.pp=1")
        if parallel.virtual_stages > 1:
            raise ValueError(f"parallel.virtual_stages={parallel.virtual_stages}: must be 1 with parallel.pp=1")
    if parallel.cp == 1 and parallel.context != "all_gather":
        raise ValueError(f"parallel.context={parallel.context}: must be left out with parallel.cp=1")


def _check_ranks(config: Config) -> None:
    parallel, ranks = config.parallel, config.nodes * config.gpus_per_node
    if ranks % (together := batch.shared_by(config)):
        raise ValueError(
            f"gpus_per_node={config.gpus_per_node}: nodes x gpus_per_node = {ranks} must be a multiple of "
            f"parallel.tp x pp x cp = {parallel.tp} x {parallel.pp} x {parallel.cp} = {together}"
        )
    if (data := batch.data_parallel(config)) % parallel.replicas:
        raise ValueError(
            f"parallel.replicas={parallel.replicas}: must divide the ranks that train on different data, {data}"
        )


def _check_tensor(config: Config) -> None:
    model, tp = config.model, config.parallel.tp
    sizes = {"heads": model.heads, "vocab_size": model.vocab_size}
    if not model.kv_lora_rank:
        sizes["kv_heads"] = model.kv_heads
    if not model.experts or model.dense_layers:
        sizes["ffn_dim"] = model.ffn_dim
    if model.experts:
        sizes["expert_ffn_dim"] = model.expert_ffn_dim
    for field, size in sizes.items():
        if size % tp:
            raise ValueError(f"model.{field}={size}: must be a multiple of parallel.tp={tp}")


def _check_context(config: Config) -> None:
    parallel, model, seq = config.parallel, config.model, config.seq_len
    tp, cp = parallel.tp, parallel.cp
    if parallel.context == "ulysses":
        for field in ("heads", "kv_heads"):
            if (heads := getattr(model, field)) % (tp * cp):
                raise ValueError(
                    f"model.{field}={heads}: must be a multiple of parallel.tp x cp = {tp} x {cp} = {tp * cp}, "
                    "for parallel.context=ulysses exchanges sequence for heads"
                )
        if seq % cp:
            raise ValueError(f"seq_len={seq}: must be a multiple of parallel.cp={cp}")
    elif cp > 1 and seq % (2 * cp):
        raise ValueError(
            f"seq_len={seq}: must be a multiple of 2 x parallel.cp = {2 * cp}, for each rank takes an early chunk "
            "and a late one"
        )
    if (seq // cp) % tp:
        raise ValueError(
            f"seq_len={seq}: must be a multiple of parallel.cp x tp = {cp} x {tp} = {cp * tp}, "
            "for ranks that share layers split the sequence between them"
        )


def _check_experts(config: Config) -> None:
    parallel, experts = config.parallel, config.model.experts
    ep, cp = parallel.ep, parallel.cp
    if ep == 1:
        return
    if not experts:
        raise ValueError(f"parallel.ep={ep}: must be 1, for model.name={config.model.name} has no experts")
    if experts % ep:
        raise ValueError(f"model.experts={experts}: must be a multiple of parallel.ep={ep}")
    if ep % cp:
        raise ValueError(f"parallel.ep={ep}: must be a multiple of parallel.cp={cp}, whose ranks share experts too")
    if batch.shards(config) % (ep // cp):
        raise ValueError(
            f"parallel.ep={ep}: must divide the ranks that share a copy of the model, "
            f"{batch.shards(config)} data ranks x parallel.cp={cp}"
        )


def _check_pipeline(config: Config) -> None:
    parallel, layers = config.parallel, config.model.layers
    pp, virtual, schedule = parallel.pp, parallel.virtual_stages, parallel.schedule
    if pp == 1:
        return
    if config.model.tied_embeddings:
        raise ValueError(
            f"parallel.pp={pp}: must be 1, for the embedding and the output projection of a tied model "
            "are one parameter and cannot be on two stages"
        )
    if schedule in ROUNDED and virtual == 1:
        raise ValueError(f"parallel.virtual_stages=1: must be 2 or more with parallel.schedule={schedule}")
    if schedule not in ROUNDED and virtual > 1:
        raise ValueError(
            f"parallel.virtual_stages={virtual}: must be 1 with parallel.schedule={schedule}; "
            f"{' and '.join(ROUNDED)} take more"
        )
    if schedule == "zero_bubble":
        _check_zero_bubble(config)
    if layers < pp * virtual:
        raise ValueError(
            f"parallel.pp={pp}: model.layers={layers} must be at least parallel.pp x virtual_stages = "
            f"{pp} x {virtual} = {pp * virtual}, one layer a stage"
        )
    _check_microbatches(config)


def _check_zero_bubble(config: Config) -> None:
    """Weight gradients are taken apart from the backward pass, which not everything that acts in backward survives."""
    if config.parallel.kind == "ddp":
        raise ValueError(
            "parallel.kind=ddp: must be fsdp or hsdp with parallel.schedule=zero_bubble, whose weight gradients pass "
            "ddp's reduction by"
        )
    if config.compile:
        raise ValueError(
            "compile=True: must be False with parallel.schedule=zero_bubble, for compiled blocks make all gradients "
            "at once"
        )
    if config.activation_checkpointing != "none":
        raise ValueError(
            f"activation_checkpointing={config.activation_checkpointing}: must be none with "
            "parallel.schedule=zero_bubble, which would recompute every block twice"
        )


def _check_microbatches(config: Config) -> None:
    """What torch.distributed.pipelining asks of the number of microbatches (schedules.py)."""
    pp, schedule, count = config.parallel.pp, config.parallel.schedule, batch.accumulation(config)
    if schedule == "1f1b" and count < pp:
        least = pp * config.local_batch * batch.data_parallel(config)
        raise ValueError(
            f"global_batch={config.global_batch}: must be at least {least} with parallel.schedule=1f1b, "
            f"which needs a microbatch for each of parallel.pp={pp} stages"
        )
    if schedule in ROUNDED and count % rounds(count, pp):
        raise ValueError(
            f"global_batch={config.global_batch}: gives {count} microbatches, and parallel.schedule={schedule} with "
            f"parallel.pp={pp} must have a multiple of its {rounds(count, pp)} "
            "rounds; any multiple of parallel.pp is one"
        )
