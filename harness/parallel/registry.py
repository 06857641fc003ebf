"""The strategies by their data-parallel kind, loaded when asked for."""

from importlib import import_module

from harness.parallel.strategy import Strategy

STRATEGIES = {
    "ddp": "harness.parallel.ddp:DDP",
    "fsdp": "harness.parallel.fsdp:FSDP",
}


def strategy(kind: str) -> type[Strategy]:
    """The class of a data-parallel kind."""
    module, name = STRATEGIES[kind].split(":")
    found: type[Strategy] = getattr(import_module(module), name)
    return found
