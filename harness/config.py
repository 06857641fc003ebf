"""The schema of everything in conf/: one dataclass a group, one help line a field.

Group files give the values of the groups; the plain keys have their defaults here. Fields carry their
limits as metadata, so that one function (harness.fields) checks them all.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING as FROM_GROUP

from harness.plan.strategies import KINDS


def option(default: Any, help: str, **limits: Any) -> Any:
    """A field with its help line and its limits: `least`, `most`, `above`, `below`, `choices`.

    `form` says in words what a field takes that has no type of its own. `of` are the kinds of its group that have a use
    for it, where not all have.
    """
    metadata = {"help": help, **limits}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


YEAR_S = 365 * 24 * 3600
"""The longest that anything is waited for: above it a limit is a slip, or no number that clocks can take."""

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")
"""The collectives that the benchmark times, in its order."""


@dataclass
class Workload:
    """What the ranks do: train a model, or time collectives alone."""

    name: str = option("training", "the workload's name, as in slugs and reports")
    kind: str = option("training", "train, or time collectives alone", choices=("training", "collectives"))
    op: str = option("all", "collectives: the operation to time", choices=("all", *OPERATIONS))
    min_bytes: int = option(1024, "collectives: smallest size; a power of two", least=16, most=2**40)
    max_bytes: int | None = option(
        None,
        "collectives: largest size, a power of two; null for 4 GiB on GPUs and 16 MiB on CPU processes",
        least=16,
        most=2**40,
    )


@dataclass
class Model:
    """A decoder-only transformer: RMSNorm, rotary embedding, grouped-query or latent attention, SwiGLU or experts."""

    name: str = option(FROM_GROUP, "the shape's name, as in slugs and reports")
    dim: int = option(FROM_GROUP, "width of the residual stream", least=1)
    layers: int = option(FROM_GROUP, "number of blocks", least=1, most=10_000)
    heads: int = option(FROM_GROUP, "query heads", least=1)
    kv_heads: int = option(FROM_GROUP, "key and value heads; a divisor of heads", least=1)
    head_dim: int = option(FROM_GROUP, "width of one head; even, for the rotary embedding", least=2)
    ffn_dim: int = option(FROM_GROUP, "hidden width of the SwiGLU feed-forward", least=1)
    vocab_size: int = option(FROM_GROUP, "number of token ids", least=2)
    rope_theta: float = option(500000.0, "base of the rotary embedding", above=0)
    norm_eps: float = option(1e-5, "epsilon of RMSNorm", above=0)
    tied_embeddings: bool = option(False, "share the output projection with the input embedding")
    kv_lora_rank: int = option(
        0, "width of the latent that keys and values are made of (multi-head latent attention); 0 for none", least=0
    )
    rope_head_dim: int = option(0, "latent attention: rotated width beside each head's head_dim", least=0)
    v_head_dim: int = option(0, "latent attention: width of one head's values", least=0)
    experts: int = option(0, "routed experts of a block; 0 for a dense feed-forward", least=0)
    experts_per_token: int = option(0, "experts: how many each token is sent to", least=0)
    expert_ffn_dim: int = option(0, "experts: hidden width of one", least=0)
    shared_experts: int = option(0, "experts: how many more take every token", least=0)
    dense_layers: int = option(0, "experts: first blocks that keep a dense feed-forward", least=0)
    normalise_routes: bool = option(True, "experts: weights of a token's chosen experts sum to 1")
    balance: str = option(
        "none",
        "experts: even load by an auxiliary loss (aux), by a bias of the router (bias), or not at all",
        choices=("none", "aux", "bias"),
    )
    balance_rate: float = option(0.001, "experts: weight of the auxiliary loss, or the bias's change a step", above=0)


@dataclass
class Parallel:
    """How one model is spread over the ranks: a data-parallel kind, and degrees whose product divides the ranks."""

    name: str = option(FROM_GROUP, "the strategy's name, as in slugs and reports")
    kind: str = option(FROM_GROUP, "data-parallel kind", choices=tuple(KINDS))
    reshard: bool = option(
        True, "fsdp, hsdp: free gathered parameters after each block's forward; a pipeline never does"
    )
    replicas: int = option(1, "hsdp: copies of the model, each sharded over its share of the data ranks", least=1)
    tp: int = option(1, "tensor parallel degree: ranks of one host that share layers", least=1)
    pp: int = option(1, "pipeline parallel degree: stages of blocks", least=1)
    cp: int = option(1, "context parallel degree: ranks that share sequences", least=1)
    ep: int = option(1, "expert parallel degree: data and context ranks that share the experts", least=1)
    schedule: str = option("1f1b", "pp: order of microbatches", choices=("1f1b", "gpipe", "interleaved", "zero_bubble"))
    virtual_stages: int = option(1, "pp: stages of one rank; interleaved and zero_bubble need 2 or more", least=1)
    context: str = option(
        "all_gather",
        "cp: gather keys and values, or exchange sequence for heads (ulysses)",
        choices=("all_gather", "ulysses"),
    )


@dataclass
class Precision:
    """The type of compute; parameters, gradient reductions and accumulation are fp32 with every strategy."""

    name: str = option(FROM_GROUP, "the precision's name, as in reports")
    compute: str = option(FROM_GROUP, "type of matrix products and activations", choices=("fp32", "bf16"))
    float8: bool = option(False, "the blocks' projections in float8, by torchao; bf16 around them")


@dataclass
class Data:
    """Where token ids come from."""

    name: str = option(FROM_GROUP, "the source's name, as in reports")
    kind: str = option(FROM_GROUP, "source of token ids", choices=("bytes", "tokens", "synthetic"))
    path: str | None = option(None, "tokens: file of little-endian token ids, memory-mapped")
    dtype: str = option("uint16", "tokens: type of an id in the file", choices=("uint16", "uint32"))


@dataclass
class Nccl:
    """NCCL's environment variables, as data."""

    name: str = option(FROM_GROUP, "the environment's name, as in slugs and reports")
    env: dict[str, Any] = option({}, "variables to set, such as nccl.env.NCCL_ALGO=allreduce:ring")
    ambient: str = option("keep", "NCCL_* variables already set where the harness starts", choices=("keep", "clear"))


SLURM = ("srun", "sbatch")
JOBS = ("sbatch",)


@dataclass
class Launcher:
    """How a point becomes processes."""

    name: str = option(FROM_GROUP, "the chosen option's name")
    kind: str = option(FROM_GROUP, "what starts the processes", choices=("local", "srun", "sbatch"))
    dry: bool = option(False, "print what would be started, and start nothing")
    time: str | None = option(None, "a job's limit as Slurm writes it, such as 30 or 2:00:00", of=JOBS)
    partition: str | None = option(None, "partition; null for the cluster's default", of=JOBS)
    account: str | None = option(None, "account", of=JOBS)
    qos: str | None = option(None, "quality of service", of=JOBS)
    constraint: str | None = option(None, "features that hosts must have", of=JOBS)
    exclusive: bool = option(True, "whole hosts, so that nothing else is measured with a point", of=JOBS)
    gres: str | None = option(None, "generic resources of each host, in place of --gpus-per-node", of=JOBS)
    segment: int | None = option(
        None, "hosts that must be close together, as topology/block has them", least=1, of=JOBS
    )
    switches: int | None = option(
        None, "most leaf switches between the hosts, as topology/tree has them", least=1, of=JOBS
    )
    signal_lead_s: int | None = option(
        None, "seconds before a job's end at which its point is ended, its records finished", least=1, of=JOBS
    )
    requeue: bool = option(
        False, "start the job anew after a host's failure, and when Slurm has told it to end before its points had"
    )
    grace_s: float = option(
        60.0, "seconds that ranks get for a last checkpoint when SIGTERM or SIGUSR2 tells them to end", above=0
    )
    max_restarts: int = option(
        0, "how often a point is started again by itself after a failure; it goes on from its checkpoint", least=0
    )
    min_nodes: int | None = option(
        None,
        "fewest hosts on which a point is started again when others are lost; null for nodes",
        least=1,
        of=SLURM,
    )
    max_nodes: int | None = option(
        None,
        "hosts that a job asks for; those beyond nodes are spare, for a start after others are lost",
        least=1,
        of=JOBS,
    )
    chain: bool = option(False, "each point's job waits for the end of the one before", of=JOBS)
    container_image: str | None = option(None, "image in which ranks run (pyxis)", of=SLURM)
    container_mounts: str | None = option(
        None, "host:container paths beside those of the study and the source, separated by commas", of=SLURM
    )
    numa: str | None = option(
        None,
        "bind each GPU's rank to cores near it, as torchrun's --numa-binding; null for all cores of the host",
        choices=("node", "socket", "exclusive", "core-complex"),
    )
    timeout_s: float | None = option(
        None, "seconds after which a point's whole tree is killed, restarts included; null for never", above=0
    )


@dataclass
class Record:
    """What is measured beside the step times, and where it is mirrored."""

    name: str = option(FROM_GROUP, "the chosen option's name")
    wandb: str = option("offline", "W&B mirror of each point", choices=("offline", "online", "disabled", "auto"))
    sample_every: int = option(
        20, "steps from one sampled step to the next; sampled steps are outside the window", least=6
    )
    telemetry_s: float = option(
        5.0, "seconds from one look at power, clocks, links and error counters of each node to the next", least=0.1
    )


@dataclass
class Profile:
    """A profiler around some steps of some ranks; those steps are outside the measured window."""

    name: str = option("none", "the chosen option's name")
    kind: str = option("none", "profiler; nsys and ncu must be on the PATH", choices=("none", "torch", "nsys", "ncu"))
    first_step: int | None = option(
        None, "first profiled step, not before 2; null for the one after the first sampled step", least=2
    )
    steps: int = option(2, "how many steps are profiled, one after the other", least=1, most=20)
    ranks: Any = option("0", "ranks that are profiled", form="rank, range as 0-3, list as [0,8-11], or all")
    kernels: str = option(
        "gemm|nvjet|cutlass|flash|sdpa|triton",
        "ncu: regular expression that a part of a kernel's name must match; never NCCL's, which cannot be run again",
    )
    launches: int = option(20, "ncu: how many kernels of a rank at most, each of which is run again and again", least=1)


@dataclass
class Checkpoint:
    """When the state of training is written, from which a later attempt of a point goes on."""

    name: str = option("none", "the chosen option's name")
    kind: str = option(
        "none",
        "when: never, every so many steps or seconds, or as often as costs least (auto)",
        choices=("none", "steps", "seconds", "auto"),
    )
    every: float | None = option(None, "steps, seconds: how many from one checkpoint to the next", above=0)
    mode: str = option(
        "sync",
        "training waits for the whole write (sync), or for a copy to the host's memory (async)",
        choices=("sync", "async"),
    )
    keep: int = option(2, "how many of the last ones are kept", least=1)
    failure_hours: float = option(
        50_677.0,
        "auto: hours between two failures of one GPU; 54 days × 16,384 GPUs ÷ 419 failures (arXiv:2407.21783, 3.3.4)",
        above=0,
    )


@dataclass
class Watchdog:
    """How long a rank may be without a sign of progress, by what it is at, before the point is ended as hung."""

    name: str = option("default", "the chosen option's name")
    rendezvous_s: float = option(600.0, "seconds for all ranks to meet", above=0, most=YEAR_S)
    model_build_s: float = option(1800.0, "seconds to build the model", above=0, most=YEAR_S)
    restore_s: float = option(1800.0, "seconds to load a checkpoint", above=0, most=YEAR_S)
    first_step_s: float = option(1800.0, "seconds of the first step, compilation included", above=0, most=YEAR_S)
    step_s: float = option(300.0, "seconds of any other step, or of one size of a benchmark", above=0, most=YEAR_S)
    checkpoint_s: float = option(1800.0, "seconds for which training may wait for a checkpoint", above=0, most=YEAR_S)
    profiling_s: float = option(900.0, "seconds of what is measured between steps", above=0, most=YEAR_S)
    shutdown_s: float = option(600.0, "seconds from the last step to a rank's end", above=0, most=YEAR_S)


FAULTS = ("none", "kill", "hang", "slow", "nan", "oom", "disk_full", "wandb_down")


@dataclass
class Faults:
    """A fault on purpose, to see what it costs and how it is told."""

    name: str = option("none", "the chosen option's name")
    kind: str = option("none", "what goes wrong", choices=FAULTS)
    rank: int | None = option(None, "the rank on which it does; null for the last", least=0)
    step: int | None = option(
        None, "the step in which it does, once in a point; null with no rate for the first measured one", least=1
    )
    rate: float | None = option(
        None, "in place of a step: mean steps from one fault to the next, drawn by seed and attempt", least=1
    )
    seconds: float = option(1.0, "slow: how long the rank sleeps before each step", above=0, most=YEAR_S)


@dataclass
class Hardware:
    """The machine to plan for; `auto` plans for this one."""

    name: str = option(FROM_GROUP, "machine, such as h100_sxm; auto asks this one")
    gpus_per_node: int = option(1, "GPUs that its hosts usually have", least=1)


@dataclass
class Optimizer:
    """AdamW with a cosine schedule after a linear warm-up."""

    lr: float = option(3e-4, "peak learning rate", above=0)
    lr_warmup: int = option(10, "steps of linear warm-up of the learning rate", least=0)
    lr_final: float = option(0.1, "learning rate at the last step, as a share of the peak", least=0, most=1)
    weight_decay: float = option(0.1, "AdamW's decoupled weight decay", least=0)
    beta1: float = option(0.9, "AdamW's first moment decay", least=0, below=1)
    beta2: float = option(0.95, "AdamW's second moment decay", least=0, below=1)
    grad_clip: float = option(1.0, "largest gradient norm; longer gradients are scaled down", above=0)
    state: str = option("fp32", "type of AdamW's two moments", choices=("fp32", "bf16"))


@dataclass
class Config:
    """One point: a model, how it is spread, and how it is measured, at one scale."""

    study: str = option("default", "the study's name and folder: letters, digits, '.', '_' and '-'")
    root: str = option("studies", "folder that holds the studies")
    nodes: int = option(1, "number of hosts", least=1)
    gpus_per_node: int = option(
        1, "ranks on each host, as many as hardware usually has; on a machine without GPUs, CPU processes", least=1
    )
    scaling: str = option(
        "weak", "what is held fixed: tokens per GPU (weak) or global_batch (strong)", choices=("weak", "strong")
    )
    local_batch: int = option(1, "sequences in one forward pass of one rank", least=1)
    global_batch: int | None = option(
        None, "strong scaling: sequences in one step over all ranks; reached by accumulation", least=1
    )
    seq_len: int = option(2048, "tokens in a sequence", least=1)
    steps: int = option(50, "optimizer steps", least=1)
    warmup: int = option(5, "first steps, left out of the measured window", least=2)
    seed: int = option(0, "seed of parameters, data and the order of points", least=0, most=2**63 - 1)
    repeats: int = option(1, "how often each point is run", least=1)
    repeat: int = option(0, "which repeat this point is; set by the controller", least=0)
    rerun: bool = option(False, "run points again that are already ok")
    preflight: bool = option(True, "over several hosts: look at them and at what lies between before a point starts")
    compile: bool = option(False, "torch.compile each block")
    activation_checkpointing: str = option(
        "none",
        "recompute in backward nothing, all but matrix products and attention (selective), or all of a block (full)",
        choices=("none", "selective", "full"),
    )
    attention: str = option(
        "auto", "attention kernel; auto takes the fastest there is", choices=("auto", "cudnn", "flash", "flex", "math")
    )
    workload: Workload = field(default_factory=Workload, metadata={"help": "what the ranks do"})
    model: Model = field(default_factory=Model, metadata={"help": "the model's shape"})
    parallel: Parallel = field(default_factory=Parallel, metadata={"help": "the parallelism strategy"})
    precision: Precision = field(default_factory=Precision, metadata={"help": "types of numbers"})
    data: Data = field(default_factory=Data, metadata={"help": "source of tokens"})
    nccl: Nccl = field(default_factory=Nccl, metadata={"help": "NCCL's environment"})
    checkpoint: Checkpoint = field(default_factory=Checkpoint, metadata={"help": "checkpoints"})
    launcher: Launcher = field(default_factory=Launcher, metadata={"help": "how processes start"})
    record: Record = field(default_factory=Record, metadata={"help": "what is recorded"})
    profile: Profile = field(default_factory=Profile, metadata={"help": "a profiler on request"})
    watchdog: Watchdog = field(default_factory=Watchdog, metadata={"help": "when a rank counts as hung"})
    faults: Faults = field(default_factory=Faults, metadata={"help": "a fault on purpose"})
    hardware: Hardware = field(default_factory=Hardware, metadata={"help": "the machine to plan for"})
    optimizer: Optimizer = field(default_factory=Optimizer, metadata={"help": "the optimizer"})


GROUPS = (
    "workload",
    "model",
    "parallel",
    "precision",
    "data",
    "nccl",
    "checkpoint",
    "launcher",
    "record",
    "profile",
    "watchdog",
    "faults",
    "hardware",
)
