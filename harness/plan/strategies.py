"""The data-parallel kinds: where each is implemented, and what it allows.

A new kind is one line here, one file that subclasses harness.parallel.strategy.Strategy, and one file in
conf/parallel.
"""

from dataclasses import dataclass

DEGREES = ("tp", "pp", "cp", "ep")


@dataclass(frozen=True)
class Kind:
    """One way to share a model out over data-parallel ranks.

    path: the class, as module:name. sharded: what is split over the ranks that share a copy: "optimizer",
    "gradients", "parameters". degrees: what it combines with; refusal: why not with the others. writes_behind: whether
    a checkpoint can be written while training goes on.
    """

    path: str
    sharded: tuple[str, ...] = ()
    degrees: tuple[str, ...] = ()
    refusal: str = "is made for data parallelism alone"
    writes_behind: bool = True


_ALL = ("optimizer", "gradients", "parameters")
_REPLICATED = "keeps every parameter whole on every rank and cannot hold parts; parallel=hsdp can, with copies"
_DEEPSPEED = "lets DeepSpeed own ranks, gradients and optimizer; combine degrees with parallel.kind=fsdp"

KINDS = {
    "ddp": Kind("harness.parallel.ddp:DDP", degrees=("pp", "cp"), refusal=_REPLICATED),
    "fsdp": Kind("harness.parallel.fsdp:FSDP", _ALL, DEGREES),
    "hsdp": Kind("harness.parallel.fsdp:FSDP", _ALL, DEGREES),
    "zero1": Kind("harness.parallel.zero:ZeRO1", _ALL[:1], refusal=_DEEPSPEED, writes_behind=False),
    "zero2": Kind("harness.parallel.zero:ZeRO2", _ALL[:2], refusal=_DEEPSPEED, writes_behind=False),
    "zero3": Kind("harness.parallel.zero:ZeRO3", _ALL, refusal=_DEEPSPEED, writes_behind=False),
}
